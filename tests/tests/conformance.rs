//! The conformance suite: each case of [`reaperd::testkit::conformance`] with each source alone and
//! with all of them together, compared with what is expected of this kernel and role.
//!
//! The sweep is always on. Beside an event source, its interval is longer than any case waits, so
//! that it cannot hide what the source misses.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "steps of tests")]

use std::collections::BTreeSet;

use reaper_tests::daemon::reaperd;
use reaper_tests::expect::{self, skip};
use reaperd::testkit::conformance::{CASES, Fault, Harness, SourceSet};
use reaperd::{Source, SourceStatus};

/// Defines a test of each case for every source set.
macro_rules! conformance {
    ($($case:ident,)*) => {
        conformance!(@source_set ebpf, SourceSet::Alone(Source::Ebpf), $($case,)*);
        conformance!(@source_set netlink, SourceSet::Alone(Source::Netlink), $($case,)*);
        conformance!(@source_set pidfd, SourceSet::Alone(Source::Pidfd), $($case,)*);
        conformance!(@source_set sweep, SourceSet::Alone(Source::Sweep), $($case,)*);
        conformance!(@source_set together, SourceSet::Together, $($case,)*);

        #[test]
        fn every_case_is_a_test() {
            let tested: BTreeSet<_> = [$(stringify!($case),)*].into();
            assert_eq!(tested, CASES.iter().map(|case| case.name).collect());
        }
    };
    (@source_set $name:ident, $source_set:expr, $($case:ident,)*) => {
        mod $name {
            use super::*;

            $(#[test]
            fn $case() {
                run_case(stringify!($case), $source_set);
            })*
        }
    };
}

conformance! {
    an_exit_is_seen_with_its_code,
    a_kill_is_seen_with_its_signal,
    two_hundred_at_once_are_all_seen,
    a_zombie_that_nobody_reaps_is_gone,
    a_process_ends_with_its_last_thread_not_with_its_leader,
    exec_by_a_worker_is_no_end,
    exec_is_no_end,
    thread_exits_are_no_end,
    the_end_of_a_parent_is_not_its_childs,
    a_stopped_process_is_no_dead_one,
    a_traced_process_ends_though_its_tracer_never_looks,
    whoever_ended_before_is_refused,
    an_end_during_registration_is_not_lost,
    every_watch_of_one_process_is_told,
    a_number_used_again_later_is_another_process,
    a_number_used_again_at_once_is_another_process,
}

/// Runs a case, or skips it with the reason.
fn run_case(name: &str, source_set: SourceSet) {
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let harness = Harness::open(source_set, reaperd().to_owned()).unwrap();
    let reports = harness.reports();
    let works = |status: &&SourceStatus| expect::source_works(status);
    let usable = reports.iter().filter(works).count();
    // `Together` uses whatever works here.
    if usable < reports.len() && source_set != SourceSet::Together {
        return;
    }
    match case.play(&harness) {
        Ok(()) => {}
        Err(Fault::Impossible(reason)) => skip(reason),
        Err(fault) => panic!("{}: {fault}", source_set.name()),
    }
}
