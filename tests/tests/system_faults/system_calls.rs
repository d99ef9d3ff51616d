//! Each system call of the daemon fails at its first, second, third .. time, with each error that
//! it can return, until a run in which the call is not made that often.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;

use crate::injection::{Fault, Since, is_possible};
use crate::scenario::{self, Outcome, PinnedBy};
use crate::table::{self, Row};
use crate::{Extent, extent};

/// From which phase on calls are counted, and up to which call one fails in a whole run and in a
/// bounded one. This cuts off calls that are made thousands of times, such as `read`.
const PHASES: [(Since, usize, usize); 3] = [
    (Since::Start, 48, 2),
    (Since::Serving, 24, 2),
    (Since::Watching, 24, 3),
];

#[test]
fn any_call_of_a_process_check_may_fail() {
    each_fails_once(table::process_checks());
}

#[test]
fn any_call_of_the_sources_may_fail() {
    each_fails_once(table::sources());
}

#[test]
fn any_call_of_the_runtime_may_fail() {
    each_fails_once(table::runtime());
}

#[test]
fn any_call_of_the_socket_may_fail() {
    each_fails_once(table::socket());
}

fn each_fails_once(rows: Vec<Row>) {
    if !is_possible() {
        return;
    }
    let mut failures = Vec::new();
    for row in &rows {
        let (errnos, pinned_by) = match extent() {
            Extent::Whole => (row.errnos, row.pinned_by),
            Extent::Bounded => (&row.errnos[..1], &row.pinned_by[..1]),
        };
        for (&errno, &pinned_by) in errnos
            .iter()
            .flat_map(|errno| pinned_by.iter().map(move |by| (errno, by)))
        {
            let mut has_happened = !pinned_by.is_available();
            for (since, whole, bounded) in PHASES {
                let cap = match extent() {
                    Extent::Whole => whole,
                    Extent::Bounded => bounded,
                };
                match fail_each_in_turn(row, errno, pinned_by, since, cap) {
                    Ok(failed) => has_happened |= failed > 0,
                    Err(failure) => {
                        has_happened = true;
                        failures.push(failure);
                    }
                }
            }
            if !has_happened {
                failures.push(format!(
                    "{} is never called, pinned by {pinned_by:?}",
                    row.name
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Lets the first call fail, then the second, and so on. Returns how many failed, or what went
/// wrong.
fn fail_each_in_turn(
    row: &Row,
    errno: Errno,
    pinned_by: PinnedBy,
    since: Since,
    cap: usize,
) -> Result<usize, String> {
    for nth in 1..=cap {
        let fault = Fault {
            calls: row.calls.clone(),
            errno,
            since,
            nth,
            lasts: false,
        };
        let case = format!(
            "{} {errno}, pinned by {pinned_by:?}, no. {nth} since {since:?}",
            row.name
        );
        // Catches panics, so that one run shows all failures.
        let run = || scenario::run_with_fault(fault, pinned_by, &row.denied, row.file);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Outcome::Survived) => {}
            Ok(Outcome::Refused) if row.may_refuse => {}
            Ok(Outcome::Refused) => return Err(format!("{case}: refused to start")),
            Ok(Outcome::NotInjected) => {
                println!("{case}: not reached");
                return Ok(nth - 1);
            }
            Err(panic) => return Err(format!("{case}: {}", message_of(&*panic))),
        }
    }
    println!(
        "{} {errno}, pinned by {pinned_by:?}, since {since:?}: not tried beyond no. {cap}",
        row.name
    );
    Ok(cap)
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_default()
}
