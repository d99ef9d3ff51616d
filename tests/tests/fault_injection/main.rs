//! Faulty sources: their hints are lost, repeated, late or out of order, or the sources fall silent
//! or fail. The tests use real processes, the real kernel and the public API of the library.
//!
//! What must hold all the same: a dead process is removed within one sweep interval and the
//! duration of the sweep, no live process is removed, and every change is reported once and in
//! order.
//!
//! Randomness comes from a seed that a failed test prints; `REAPER_SEED` sets another one. With
//! `REAPER_TEST_SCALE=full` there are more processes and more rounds.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; measurements and skip reasons are printed"
)]

mod down;
mod harness;
mod late;
mod lost;
mod record;
mod scenario;
mod silence;

use std::time::Duration;

use reaperd::Source;
use reaperd::testkit::fault_injection::Plan;

const ALL: &[Source] = &[Source::Ebpf, Source::Netlink, Source::Pidfd];

/// Defines a test of each fault, for every event source alone and for all of them together.
macro_rules! faults {
    ($($name:ident: $plan:expr,)*) => {
        faults!(@of ebpf, &[Source::Ebpf], $($name: $plan,)*);
        faults!(@of netlink, &[Source::Netlink], $($name: $plan,)*);
        faults!(@of pidfd, &[Source::Pidfd], $($name: $plan,)*);
        faults!(@of together, ALL, $($name: $plan,)*);
    };
    (@of $mode:ident, $sources:expr, $($name:ident: $plan:expr,)*) => {
        mod $mode {
            use super::*;

            $(#[test]
            fn $name() {
                scenario::dead_processes_are_removed_once_and_live_ones_stay($sources, $plan);
            })*
        }
    };
}

faults! {
    without_a_fault: Plan::default(),
    with_10_percent_of_hints_lost: Plan { lost_percent: 10, ..Plan::default() },
    with_half_of_hints_lost: Plan { lost_percent: 50, ..Plan::default() },
    with_all_hints_lost: Plan { lost_percent: 100, ..Plan::default() },
    with_hints_repeated_up_to_three_times: Plan { repeats: 2, ..Plan::default() },
    with_late_hints: Plan { delay: Duration::from_millis(400), ..Plan::default() },
    with_hints_out_of_order: Plan { window: 64, ..Plan::default() },
    with_a_mute_source: Plan { mute: true, ..Plan::default() },
    with_all_faults_together: Plan {
        lost_percent: 30,
        repeats: 2,
        window: 64,
        delay: Duration::from_millis(200),
        ..Plan::default()
    },
}
