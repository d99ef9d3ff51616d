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
    an_exit_is_reported_with_its_code,
    a_kill_is_reported_with_its_signal,
    two_hundred_deaths_at_once_are_all_reported,
    a_zombie_that_is_never_reaped_is_gone,
    a_process_ends_with_its_last_thread_not_with_its_leader,
    exec_by_a_worker_is_not_a_death,
    exec_is_not_a_death,
    thread_exits_are_not_a_death,
    the_death_of_a_parent_is_not_a_death_of_its_child,
    a_stopped_process_is_not_dead,
    a_killed_process_is_gone_though_its_tracer_never_waits,
    a_process_that_has_ended_is_refused,
    a_death_during_registration_is_not_missed,
    every_watch_of_one_process_resolves,
    a_pid_reused_later_is_another_process,
    a_pid_reused_at_once_is_another_process,
}

/// Runs a case, or skips it with the reason.
fn run_case(name: &str, source_set: SourceSet) {
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let harness = Harness::start(source_set, reaperd().to_owned()).unwrap();
    let status = harness.status();
    let works = |status: &&SourceStatus| expect::source_works(status);
    let usable = status.iter().filter(works).count();
    // `Together` uses the sources that work here.
    if usable < status.len() && source_set != SourceSet::Together {
        return;
    }
    match case.run(&harness) {
        Ok(()) => {}
        Err(Fault::Unsupported(reason)) => skip(reason),
        Err(fault) => panic!("{}: {fault}", source_set.name()),
    }
}
