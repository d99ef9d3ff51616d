//! Sources that lie by omission: their hints are lost, repeated, late or out of order, and they
//! themselves fall silent or die. Real processes, the real kernel, and the doors of the library.
//!
//! What must hold all the same: nobody who is dead stays for longer than one sweep and its own time,
//! nobody who lives is touched, and everything is told once and in order.
//!
//! Chance comes from a seed that a failure prints; `REAPER_SEED` sets another one. With
//! `REAPER_TEST_SCALE=full` there are more processes and more rounds.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; measurements and the reasons of skips are printed"
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

const NO_FAULT: Plan = Plan {
    mute: false,
    lost_percent: 0,
    repeats: 0,
    hold: false,
    window: 0,
    delay: Duration::ZERO,
};

/// Each fault, as a test of every event source and of all together.
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
                scenario::the_dead_go_once_and_the_living_stay($sources, $plan);
            })*
        }
    };
}

faults! {
    without_a_fault: NO_FAULT,
    with_a_tenth_lost: Plan { lost_percent: 10, ..NO_FAULT },
    with_half_lost: Plan { lost_percent: 50, ..NO_FAULT },
    with_everything_lost: Plan { lost_percent: 100, ..NO_FAULT },
    with_each_up_to_three_times: Plan { repeats: 2, ..NO_FAULT },
    with_each_late: Plan { delay: Duration::from_millis(400), ..NO_FAULT },
    with_the_order_lost: Plan { window: 64, ..NO_FAULT },
    with_a_mute_source: Plan { mute: true, ..NO_FAULT },
    with_all_of_it_at_once: Plan {
        lost_percent: 30,
        repeats: 2,
        window: 64,
        delay: Duration::from_millis(200),
        ..NO_FAULT
    },
}
