//! The results of the guests: verdict lines, failures, and `docs/kernel-matrix.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::kernels::Kernel;
use super::matrix::{self, Role};
use super::qemu::{Guest, Outcome, Verdict};
use crate::text::count;

/// The numbers of tests of one guest by verdict.
#[derive(Default)]
struct Count {
    ok: usize,
    skipped: usize,
    failed: usize,
}

impl Count {
    fn of<'verdict>(verdicts: impl Iterator<Item = &'verdict Verdict>) -> Self {
        let mut count = Self::default();
        for verdict in verdicts {
            match verdict {
                Verdict::Ok => count.ok += 1,
                Verdict::Skipped(_) => count.skipped += 1,
                Verdict::Failed(_) => count.failed += 1,
            }
        }
        count
    }

    fn text(&self) -> String {
        let Self {
            ok,
            skipped,
            failed,
        } = self;
        let mut text = format!("{ok} ok");
        for (tests, verdict) in [(skipped, "skipped"), (failed, "FAILED")] {
            if *tests > 0 {
                text += &format!(", {tests} {verdict}");
            }
        }
        text
    }
}

/// Returns a progress line for a guest.
pub(crate) fn one_guest(guest: &Guest<'_>, outcome: &Outcome) -> String {
    let count = Count::of(outcome.verdicts.values()).text();
    let problem = if outcome.problems.is_empty() {
        ""
    } else {
        ", and the guest has a problem"
    };
    let (kernel, role) = (&guest.kernel.alias, guest.role.name());
    let mut line = format!(
        "guest {kernel} {role}: {count}{problem} in {:.1} s",
        outcome.seconds
    );
    // Always printed: a kernel that often fails to boot needs attention.
    if let Some(why) = &outcome.failed_boot {
        line +=
            &format!("\nguest {kernel} {role}: this was the second boot; the first failed: {why}");
    }
    line
}

/// Prints one verdict for each kernel, role and test. Returns the failures.
pub(crate) fn verdicts(guests: &[Guest<'_>], outcomes: &[Outcome]) -> Vec<String> {
    let mut failures = Vec::new();
    for (guest, outcome) in guests.iter().zip(outcomes) {
        let place = format!("{} {}", guest.kernel.alias, guest.role.name());
        for (name, verdict) in &outcome.verdicts {
            match verdict {
                Verdict::Ok => println!("{place} {name} ok"),
                Verdict::Skipped(reason) => {
                    println!("{place} {name} skipped ({reason})");
                    if !matrix::may_skip(guest.role, name) {
                        failures.push(format!(
                            "{place} {name}: skipped ({reason}), which is a failure as root"
                        ));
                    }
                }
                Verdict::Failed(reason) => {
                    println!("{place} {name} FAILED");
                    let output = outcome.output.get(name).map_or("", String::as_str);
                    let output = output.trim_end().replace('\n', "\n    ");
                    failures.push(format!("{place} {name}: {reason}\n    {output}"));
                }
            }
        }
        if !outcome.problems.is_empty() {
            failures.push(format!("{place}: {}", outcome.problems.join("; ")));
        } else if outcome.verdicts.is_empty() && guest.filter.is_none() {
            failures.push(format!("{place}: no test ran"));
        }
    }
    let is_empty = outcomes.iter().all(|outcome| outcome.verdicts.is_empty());
    if is_empty && failures.is_empty() {
        failures.push("no test ran at all".to_owned());
    }
    failures
}

type Cells<'run> = BTreeMap<(&'run str, Role), &'run Outcome>;

/// Returns the page of the matrix. It depends only on kernels and verdicts.
pub(crate) fn page(guests: &[Guest<'_>], outcomes: &[Outcome], failures: &[String]) -> String {
    let mut kernels: Vec<&Kernel> = Vec::new();
    let mut cells = Cells::new();
    for (guest, outcome) in guests.iter().zip(outcomes) {
        if kernels
            .last()
            .is_none_or(|last| last.alias != guest.kernel.alias)
        {
            kernels.push(guest.kernel);
        }
        cells.insert((&guest.kernel.alias, guest.role), outcome);
    }
    let suites: BTreeSet<&str> = outcomes
        .iter()
        .flat_map(|outcome| outcome.verdicts.keys())
        .filter_map(|name| name.split_once("::").map(|(suite, _)| suite))
        .collect();

    let mut page = "# Kernel matrix\n\nWritten by `cargo xtask vm`; the expectations are in \
         `xtask/src/vm/matrix.rs`. Every guest is one kernel in one role. Figures measured in \
         them are in [kernel-figures.md](kernel-figures.md).\n\n"
        .to_owned();
    page += &match failures.len() {
        0 => "**Every cell is as expected.**\n\n".to_owned(),
        failures => format!(
            "**{}: not every cell is as expected.**\n\n",
            count(failures, "failure")
        ),
    };
    page += "## Kernels\n\n| kernel | release | package |\n|---|---|---|\n";
    for Kernel {
        alias,
        release,
        package,
        ..
    } in &kernels
    {
        page += &format!("| {alias} | {release} | {package} |\n");
    }
    page += "\n## Roles\n\n| role | meaning |\n|---|---|\n";
    for role in Role::ALL {
        page += &format!("| {} | {} |\n", role.name(), role.meaning());
    }
    page += "\n## Sources expected, and why others are not\n\n";
    page += &table(&kernels, |kernel, role| {
        matrix::summary(kernel.version, role)
    });
    for suite in suites {
        page += &format!("\n## Suite `{suite}`\n\n");
        page += &table(&kernels, |kernel, role| {
            let outcome = cells.get(&(kernel.alias.as_str(), role));
            match outcome {
                Some(outcome) if matrix::is_for(suite, role) => {
                    Count::of(own_verdicts(suite, outcome).map(|(_, verdict)| verdict)).text()
                }
                Some(_) | None => "not run".to_owned(),
            }
        });
        page += &tests_of(suite, &cells);
    }
    page
}

/// Returns the first two lines of a table with named rows.
pub(super) fn table_head(columns: &[&str]) -> String {
    let rule = "---|".repeat(columns.len());
    format!("| | {} |\n|---|{rule}\n", columns.join(" | "))
}

/// Returns a table with kernels as columns and roles as rows.
fn table(kernels: &[&Kernel], cell: impl Fn(&Kernel, Role) -> String) -> String {
    let heads: Vec<_> = kernels.iter().map(|kernel| kernel.alias.as_str()).collect();
    let mut table = table_head(&heads);
    for role in Role::ALL {
        let cells: Vec<_> = kernels.iter().map(|kernel| cell(kernel, *role)).collect();
        table += &format!("| {} | {} |\n", role.name(), cells.join(" | "));
    }
    table
}

/// Returns a list of the tests, with the guests in which they were skipped or failed.
fn tests_of(suite: &str, cells: &Cells<'_>) -> String {
    let mut exceptions: BTreeMap<&str, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for ((alias, role), outcome) in cells {
        for (name, verdict) in own_verdicts(suite, outcome) {
            let of_test = exceptions.entry(name).or_default();
            let what = match verdict {
                Verdict::Ok => continue,
                Verdict::Skipped(reason) => format!("skipped ({reason})"),
                Verdict::Failed(reason) => format!("**failed** ({reason})"),
            };
            of_test
                .entry(what)
                .or_default()
                .push(format!("{alias} {}", role.name()));
        }
    }
    let mut list = "\n".to_owned();
    for (name, places) in exceptions {
        let notes: Vec<_> = places
            .iter()
            .map(|(what, where_)| format!("{what} on {}", where_.join(", ")))
            .collect();
        let notes = if notes.is_empty() {
            "ok".to_owned()
        } else {
            notes.join("; ")
        };
        list += &format!("* `{name}`: {notes}\n");
    }
    list
}

fn own_verdicts<'run>(
    suite: &str,
    outcome: &'run Outcome,
) -> impl Iterator<Item = (&'run str, &'run Verdict)> {
    let own = outcome.verdicts.iter().filter_map(move |(name, verdict)| {
        let (of, test) = name.split_once("::")?;
        (of == suite).then_some((test, verdict))
    });
    own.collect::<Vec<_>>().into_iter()
}
