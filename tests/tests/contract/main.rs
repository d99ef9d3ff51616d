//! One contract for every source: how processes end, what looks like an end and is none, and what
//! happens around a registration. Each check runs against each source alone and against all of them
//! together, on the library's own [`reaper_user::ExitWatcher`].
//!
//! The sweep runs beneath every source. Beside an event source it sleeps for longer than any test
//! waits, so that what the source misses fails the test instead of being made up for.
#![cfg(target_os = "linux")]

mod endings;
mod registration;
mod reuse;
mod stage;
mod survivors;

use stage::{Mode, Stage};

/// The checks, each as a test of every source.
macro_rules! contract {
    ($($check:ident: $path:path,)*) => {
        contract!(@mode ebpf, Mode::Ebpf, $($check: $path,)*);
        contract!(@mode netlink, Mode::Netlink, $($check: $path,)*);
        contract!(@mode pidfd, Mode::Pidfd, $($check: $path,)*);
        contract!(@mode sweep, Mode::Sweep, $($check: $path,)*);
        contract!(@mode together, Mode::Together, $($check: $path,)*);
    };
    (@mode $name:ident, $mode:expr, $($check:ident: $path:path,)*) => {
        mod $name {
            use super::*;

            $(#[test]
            fn $check() {
                if let Some(stage) = Stage::open($mode) {
                    $path(&stage);
                }
            })*
        }
    };
}

contract! {
    an_exit_is_seen_with_its_code: endings::exit_code,
    a_kill_is_seen_with_its_signal: endings::signal,
    two_hundred_at_once_are_all_seen: endings::many_at_once,
    a_zombie_that_nobody_reaps_is_gone: endings::zombie,
    a_process_ends_with_its_last_thread_not_with_its_leader: survivors::leader_first,
    exec_by_a_worker_is_no_end: survivors::worker_exec,
    exec_is_no_end: survivors::self_exec,
    thread_exits_are_no_end: survivors::thread_churn,
    a_stopped_process_is_no_dead_one: survivors::stopped,
    whoever_ended_before_is_refused: registration::ended_before,
    an_end_during_registration_is_not_lost: registration::ends_during,
    every_watch_of_one_process_is_told: registration::several_watches,
    a_number_used_again_later_is_another_process: reuse::across_ticks,
    a_number_used_again_at_once_is_another_process: reuse::within_a_tick,
}
