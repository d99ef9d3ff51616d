//! One contract for every source: the cases of [`reaper_user::testkit::conformance`], each against
//! each source alone and against all of them together, held to what is expected of this kernel and
//! role.
//!
//! The sweep runs beneath every source. Beside an event source it sleeps for longer than any case
//! waits, so that what the source misses fails the test instead of being made up for.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "steps of tests")]

use std::collections::BTreeSet;

use reaper_tests::daemon::reaperd;
use reaper_tests::expect::{self, skip};
use reaper_user::testkit::conformance::{CASES, Fault, Lineup, Stage};
use reaper_user::{Source, SourceStatus};

/// The cases, each as a test of every lineup.
macro_rules! contract {
    ($($case:ident,)*) => {
        contract!(@lineup ebpf, Lineup::Alone(Source::Ebpf), $($case,)*);
        contract!(@lineup netlink, Lineup::Alone(Source::Netlink), $($case,)*);
        contract!(@lineup pidfd, Lineup::Alone(Source::Pidfd), $($case,)*);
        contract!(@lineup sweep, Lineup::Alone(Source::Sweep), $($case,)*);
        contract!(@lineup together, Lineup::Together, $($case,)*);

        #[test]
        fn every_case_is_a_test() {
            let tested: BTreeSet<_> = [$(stringify!($case),)*].into();
            assert_eq!(tested, CASES.iter().map(|case| case.name).collect());
        }
    };
    (@lineup $name:ident, $lineup:expr, $($case:ident,)*) => {
        mod $name {
            use super::*;

            $(#[test]
            fn $case() {
                play(stringify!($case), $lineup);
            })*
        }
    };
}

contract! {
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

/// Plays a case, or says why it cannot be had here.
fn play(name: &str, lineup: Lineup) {
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let stage = Stage::open(lineup, reaperd().to_owned()).unwrap();
    let reports = stage.reports();
    let works = |status: &&SourceStatus| expect::source_works(status);
    let usable = reports.iter().filter(works).count();
    // Together they are whatever works here.
    if usable < reports.len() && lineup != Lineup::Together {
        return;
    }
    match case.play(&stage) {
        Ok(()) => {}
        Err(Fault::Impossible(reason)) => skip(reason),
        Err(fault) => panic!("{}: {fault}", lineup.name()),
    }
}
