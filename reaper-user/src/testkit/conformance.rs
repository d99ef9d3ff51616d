//! Conformance cases for every exit source. Each case runs real processes and tests one behaviour: a way
//! to die, something that resembles a death, or an event around a registration.
//!
//! `reaperd selftest` runs the cases with the sources of this machine. The conformance suite of the tests
//! runs the same cases and compares the results with what is expected of each kernel. This module prints
//! nothing.

mod endings;
mod harness;
mod kernel_version;
mod registration;
mod reuse;
mod survivors;

use std::io;
use std::time::Duration;

use reaper_registry::Source;

pub use harness::{Harness, Observed};
pub use kernel_version::kernel_before;

/// A conformance case.
#[derive(Debug)]
pub struct Case {
    /// The tested behaviour.
    pub name: &'static str,
    run: fn(&Harness) -> Result<(), Fault>,
}

const fn case(name: &'static str, run: fn(&Harness) -> Result<(), Fault>) -> Case {
    Case { name, run }
}

impl Case {
    /// Runs the case with the sources of this harness.
    pub fn run(&self, harness: &Harness) -> Result<(), Fault> {
        (self.run)(harness)
    }
}

/// Why a case did not pass.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("an exit was not detected within {0:?}")]
    Missed(Duration),
    #[error("a living process was reported as dead: {0}")]
    FalseDeath(String),
    /// An exit was detected and reported with wrong details.
    #[error("wrong report: {0}")]
    WrongReport(String),
    /// The case requires something that this system does not provide.
    #[error("{0}")]
    Unsupported(String),
    #[error("cannot set up the case: {0}")]
    Setup(#[from] io::Error),
}

/// The sources under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceSet {
    /// This source, with a sweep that is too slow to hide what the source misses.
    Alone(Source),
    /// All event sources that work here, with the same sweep.
    Together,
}

impl SourceSet {
    /// All source sets.
    pub const ALL: [Self; 5] = [
        Self::Alone(Source::Ebpf),
        Self::Alone(Source::Netlink),
        Self::Alone(Source::Pidfd),
        Self::Alone(Source::Sweep),
        Self::Together,
    ];

    /// Returns the name on screen and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alone(source) => source.name(),
            Self::Together => "together",
        }
    }

    fn sources(self) -> Vec<Source> {
        match self {
            Self::Alone(source) => vec![source],
            Self::Together => vec![Source::Ebpf, Source::Netlink, Source::Pidfd],
        }
    }

    /// Returns whether every exit is reported with its status.
    fn reports_status(self) -> bool {
        matches!(self, Self::Alone(Source::Ebpf | Source::Netlink))
    }
}

/// All conformance cases.
pub const CASES: [Case; 16] = [
    case("an_exit_is_reported_with_its_code", endings::exit_code),
    case("a_kill_is_reported_with_its_signal", endings::signal),
    case(
        "two_hundred_deaths_at_once_are_all_reported",
        endings::many_at_once,
    ),
    case("a_zombie_that_is_never_reaped_is_gone", endings::zombie),
    case(
        "a_process_ends_with_its_last_thread_not_with_its_leader",
        survivors::leader_first,
    ),
    case("exec_by_a_worker_is_not_a_death", survivors::worker_exec),
    case("exec_is_not_a_death", survivors::self_exec),
    case("thread_exits_are_not_a_death", survivors::thread_churn),
    case(
        "the_death_of_a_parent_is_not_a_death_of_its_child",
        survivors::parent_first,
    ),
    case("a_stopped_process_is_not_dead", survivors::stopped),
    case(
        "a_killed_process_is_gone_though_its_tracer_never_waits",
        survivors::traced,
    ),
    case(
        "a_process_that_has_ended_is_refused",
        registration::ended_before,
    ),
    case(
        "a_death_during_registration_is_not_missed",
        registration::ends_during,
    ),
    case(
        "every_watch_of_one_process_resolves",
        registration::several_watches,
    ),
    case("a_pid_reused_later_is_another_process", reuse::across_ticks),
    case(
        "a_pid_reused_at_once_is_another_process",
        reuse::within_a_tick,
    ),
];
