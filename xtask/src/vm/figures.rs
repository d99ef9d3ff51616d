//! Writes the figures that tests have measured in the guests to `docs/kernel-figures.md`. A figure is a line
//! `measured: NAME = VALUE` in the output of a test; `tests/src/harness/expect.rs` prints it.

use std::collections::{BTreeMap, BTreeSet};

use super::matrix::Role;
use super::qemu::{Guest, Outcome};
use super::report::table_head;

/// Returns the page for role `root`, in which every test can run; `None` if nothing was measured.
pub(crate) fn page(guests: &[Guest<'_>], outcomes: &[Outcome]) -> Option<String> {
    let as_root: Vec<_> = guests
        .iter()
        .zip(outcomes)
        .filter(|(guest, _)| guest.role == Role::Root)
        .map(|(guest, outcome)| (guest.kernel.alias.as_str(), figures_of(outcome)))
        .collect();
    let table = table(&as_root)?;
    Some(format!(
        "# Figures measured on every kernel\n\nWritten by `cargo xtask vm --full` from the guests that \
         run as root; [kernel-matrix.md](kernel-matrix.md) lists their kernels. The tests in \
         `tests/tests/stress` define each figure. The guests are emulated: their counts are \
         representative, their times are not.\n\n{table}"
    ))
}

/// Returns a table with names as rows and kernels as columns.
fn table(kernels: &[(&str, BTreeMap<&str, &str>)]) -> Option<String> {
    let names: BTreeSet<&str> = kernels
        .iter()
        .flat_map(|(_, figures)| figures.keys().copied())
        .collect();
    if names.is_empty() {
        return None;
    }
    let heads: Vec<_> = kernels.iter().map(|(alias, _)| *alias).collect();
    let mut table = table_head(&heads);
    for name in names {
        let of_kernel = |(_, figures): &(&str, BTreeMap<&str, &str>)| {
            figures.get(name).copied().unwrap_or("").to_owned()
        };
        let row: Vec<_> = kernels.iter().map(of_kernel).collect();
        table += &format!("| {name} | {} |\n", row.join(" | "));
    }
    Some(table)
}

fn figures_of(outcome: &Outcome) -> BTreeMap<&str, &str> {
    let lines = outcome.output.values().flat_map(|output| output.lines());
    lines
        .filter_map(|line| line.trim().strip_prefix("measured: ")?.split_once(" = "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_a_table_of_names_and_kernels() {
        let output = "noise\nmeasured: deaths = 10000\nmeasured: missed = 3 of 9\n".to_owned();
        let outcome = Outcome {
            output: BTreeMap::from([("stress::a".to_owned(), output)]),
            ..Outcome::default()
        };
        assert_eq!(
            table(&[("6.1", figures_of(&outcome)), ("6.18", BTreeMap::new())]).as_deref(),
            Some(
                "| | 6.1 | 6.18 |\n|---|---|---|\n| deaths | 10000 |  |\n| missed | 3 of 9 |  |\n"
            )
        );
        assert_eq!(table(&[("6.1", BTreeMap::new())]), None);
    }
}
