//! The torture kit: one contract for every source of hints, as cases that real processes play. Each
//! is how a process ends, what looks like an end and is none, or what happens around a registration.
//!
//! `reaperd selftest` plays them against the sources of the machine at hand; the contract suite of
//! the tests plays the very same ones and holds them to what is expected of each kernel. Here
//! nothing is printed and nothing is expected of a source but the truth.

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

/// One case of the contract.
#[derive(Debug)]
pub struct Case {
    /// The behaviour that it is about.
    pub name: &'static str,
    play: fn(&Harness) -> Result<(), Fault>,
}

impl Case {
    /// Plays it with the sources of this stage.
    pub fn play(&self, harness: &Harness) -> Result<(), Fault> {
        (self.play)(harness)
    }
}

/// Why a case did not end as the contract has it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("an end was not seen within {0:?}")]
    Missed(Duration),
    #[error("a living process was taken for dead: {0}")]
    FalseDeath(String),
    /// An end was seen and something untrue told of it.
    #[error("told wrongly: {0}")]
    Untrue(String),
    /// What the case needs cannot be had here.
    #[error("{0}")]
    Impossible(String),
    #[error("the case could not be staged: {0}")]
    Staging(#[from] io::Error),
}

/// Which sources are put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceSet {
    /// This one, above a sweep that is too slow to make up for it.
    Alone(Source),
    /// All sources of events that work here, above the same sweep.
    Together,
}

impl SourceSet {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Alone(Source::Ebpf),
        Self::Alone(Source::Netlink),
        Self::Alone(Source::Pidfd),
        Self::Alone(Source::Sweep),
        Self::Together,
    ];

    /// Its name on screen and in JSON.
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

    /// Whether each end comes with how the process ended.
    fn tells_status(self) -> bool {
        matches!(self, Self::Alone(Source::Ebpf | Source::Netlink))
    }
}

/// The contract.
pub const CASES: [Case; 16] = [
    Case {
        name: "an_exit_is_seen_with_its_code",
        play: endings::exit_code,
    },
    Case {
        name: "a_kill_is_seen_with_its_signal",
        play: endings::signal,
    },
    Case {
        name: "two_hundred_at_once_are_all_seen",
        play: endings::many_at_once,
    },
    Case {
        name: "a_zombie_that_nobody_reaps_is_gone",
        play: endings::zombie,
    },
    Case {
        name: "a_process_ends_with_its_last_thread_not_with_its_leader",
        play: survivors::leader_first,
    },
    Case {
        name: "exec_by_a_worker_is_no_end",
        play: survivors::worker_exec,
    },
    Case {
        name: "exec_is_no_end",
        play: survivors::self_exec,
    },
    Case {
        name: "thread_exits_are_no_end",
        play: survivors::thread_churn,
    },
    Case {
        name: "the_end_of_a_parent_is_not_its_childs",
        play: survivors::parent_first,
    },
    Case {
        name: "a_stopped_process_is_no_dead_one",
        play: survivors::stopped,
    },
    Case {
        name: "a_traced_process_ends_though_its_tracer_never_looks",
        play: survivors::traced,
    },
    Case {
        name: "whoever_ended_before_is_refused",
        play: registration::ended_before,
    },
    Case {
        name: "an_end_during_registration_is_not_lost",
        play: registration::ends_during,
    },
    Case {
        name: "every_watch_of_one_process_is_told",
        play: registration::several_watches,
    },
    Case {
        name: "a_number_used_again_later_is_another_process",
        play: reuse::across_ticks,
    },
    Case {
        name: "a_number_used_again_at_once_is_another_process",
        play: reuse::within_a_tick,
    },
];
