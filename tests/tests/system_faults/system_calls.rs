//! Each system call of the daemon fails at its first, second, third .. time, with each error that it
//! may come back with, until a run in which there was no such time; and some fail for good.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;

use crate::injection::{Fault, Since, is_possible};
use crate::life::{self, Footing, Outcome};
use crate::table::{self, Row};
use crate::{Extent, extent};

/// From when on calls are counted, and how many of a kind each fail once in a whole run and in a
/// short one. What is called thousands of times, such as `read`, is cut off there.
const STAGES: [(Since, usize, usize); 3] = [
    (Since::Start, 48, 2),
    (Since::Serving, 24, 2),
    (Since::Watching, 24, 3),
];

#[test]
fn any_call_that_looks_at_processes_may_fail() {
    each_fails_once(table::looks());
}

#[test]
fn any_call_of_the_sources_may_fail() {
    each_fails_once(table::sources());
}

#[test]
fn any_call_that_the_process_is_made_of_may_fail() {
    each_fails_once(table::process());
}

#[test]
fn any_call_that_the_socket_needs_may_fail() {
    each_fails_once(table::serving());
}

fn each_fails_once(rows: Vec<Row>) {
    if !is_possible() {
        return;
    }
    let mut failures = Vec::new();
    for row in &rows {
        let (errnos, footings) = match extent() {
            Extent::Whole => (row.errnos, row.footings),
            Extent::Bounded => (&row.errnos[..1], &row.footings[..1]),
        };
        for (&errno, &footing) in errnos
            .iter()
            .flat_map(|e| footings.iter().map(move |f| (e, f)))
        {
            let mut has_struck = !footing.is_to_be_had();
            for (since, whole, bounded) in STAGES {
                let cap = match extent() {
                    Extent::Whole => whole,
                    Extent::Bounded => bounded,
                };
                match until_clean(row, errno, footing, since, cap) {
                    Ok(struck) => has_struck |= struck > 0,
                    Err(failure) => {
                        has_struck = true;
                        failures.push(failure);
                    }
                }
            }
            if !has_struck {
                failures.push(format!("{} on {footing:?} is never called", row.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Has the first call fail, then the second ..; answers how many have, or what went wrong.
fn until_clean(
    row: &Row,
    errno: Errno,
    footing: Footing,
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
            "{} {errno} on {footing:?}, no. {nth} since {since:?}",
            row.name
        );
        // All are tried: one run shows all that is wrong.
        let run = || life::under(fault, footing, &row.denied, row.file);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Outcome::Survived) => {}
            Ok(Outcome::Refused) if row.may_refuse => {}
            Ok(Outcome::Refused) => return Err(format!("{case}: it would not start")),
            Ok(Outcome::NotStruck) => {
                println!("{case}: clean");
                return Ok(nth - 1);
            }
            Err(panic) => return Err(format!("{case}: {}", words_of(&*panic))),
        }
    }
    println!(
        "{} {errno} on {footing:?} since {since:?}: not tried beyond no. {cap}",
        row.name
    );
    Ok(cap)
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_default()
}
