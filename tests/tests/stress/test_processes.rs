//! The ways in which the test processes die.

use std::time::Duration;

use reaper_tests::fork_server::{CUE, ForkServer, Kind, LAST_CUE, kill, signal};
use reaper_tests::wait::{Deadline, eventually};

use crate::line_of;

/// A way to die.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    ExitZero,
    ExitNonZero,
    Killed,
    Fault,
    Abort,
    /// The leader thread exits first; later the last thread ends the process.
    LeaderFirst,
    /// Killed with several threads.
    Threads,
    /// Killed while it is being registered.
    DuringRegistration,
    /// Killed, and not reaped before the end of the wave.
    Unreaped,
    /// Two deaths: the parent's and later the child's.
    ParentFirst,
}

pub(crate) const WAYS: [Way; 10] = [
    Way::ExitZero,
    Way::Killed,
    Way::LeaderFirst,
    Way::ExitNonZero,
    Way::Unreaped,
    Way::Fault,
    Way::ParentFirst,
    Way::Threads,
    Way::Abort,
    Way::DuringRegistration,
];

impl Way {
    fn kind(self) -> Kind {
        match self {
            Self::ExitZero => Kind::Exit { code: 0 },
            Self::ExitNonZero => Kind::Exit { code: 7 },
            Self::Killed | Self::DuringRegistration | Self::Unreaped => Kind::Idle { megabytes: 0 },
            Self::Fault => Kind::Fault,
            Self::Abort => Kind::Abort,
            Self::LeaderFirst => Kind::LeaderFirst,
            Self::Threads => Kind::Threads { number: 3 },
            Self::ParentFirst => Kind::ParentFirst,
        }
    }

    /// Starts `count` processes.
    pub(crate) fn start(
        self,
        count: usize,
        auto_reaping: &mut ForkServer,
        keeping_zombies: &mut ForkServer,
    ) -> Vec<u32> {
        match self {
            Self::Unreaped => keeping_zombies.start(count, self.kind()),
            Self::ParentFirst => auto_reaping.start(count / 2, self.kind()),
            _ => auto_reaping.start(count, self.kind()),
        }
        .unwrap()
    }

    /// The exit status: a code, or a signal as a negative number. Which thread sets it where the
    /// leader exited first differs between kernels; the suite `conformance` compares the daemon's
    /// report with what the parent gets from wait(2).
    pub(crate) fn status(self) -> Option<i32> {
        match self {
            Self::ExitZero | Self::ParentFirst => Some(0),
            Self::ExitNonZero => Some(7),
            Self::Fault => Some(-11),
            Self::Abort => Some(-6),
            Self::LeaderFirst => None,
            Self::Killed | Self::Threads | Self::DuringRegistration | Self::Unreaped => Some(-9),
        }
    }

    /// Whether the process is alive after [`Self::trigger`].
    pub(crate) fn survives_trigger(self) -> bool {
        self == Self::LeaderFirst
    }

    pub(crate) fn trigger(self, pid: u32) {
        let done = match self {
            Self::ExitZero
            | Self::ExitNonZero
            | Self::Fault
            | Self::Abort
            | Self::LeaderFirst
            | Self::ParentFirst => signal(pid, CUE),
            Self::Killed | Self::Threads | Self::DuringRegistration | Self::Unreaped => kill(pid),
        };
        done.unwrap();
    }
}

/// Waits until the leader thread has exited and is a zombie, while the other threads run.
pub(crate) fn wait_for_leader_exit(pid: u32) {
    eventually("the leader thread has exited", || {
        line_of(pid, "status", "State:").is_some_and(|state| state.starts_with('Z'))
    });
}

/// Ends what is left of a [`Way::LeaderFirst`] process.
pub(crate) fn end_last_thread(pid: u32) {
    signal(pid, LAST_CUE).unwrap();
}

/// Kills a process while it is being registered, so that every stage of the registration is hit.
/// The delay before the kill is spread over twice the time that a registration takes here.
pub(crate) struct Racer {
    round: u32,
    registration: Duration,
}

impl Racer {
    pub(crate) fn new() -> Self {
        Self {
            round: 0,
            registration: Duration::from_micros(500),
        }
    }

    /// Runs `register` while the process is killed.
    pub(crate) fn race<T>(&mut self, pid: u32, register: impl FnOnce() -> T) -> T {
        /// How many different delays there are.
        const STAGES: u32 = 32;
        /// Keeps an outlier from lengthening the next delays.
        const MAX_REGISTRATION: Duration = Duration::from_millis(20);
        self.round += 1;
        let delay = self.registration * 2 / STAGES * (self.round % STAGES);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let delay = Deadline::after(delay);
                while !delay.has_passed() {
                    std::thread::yield_now();
                }
                kill(pid).unwrap();
            });
            let clock = Deadline::after(MAX_REGISTRATION);
            let result = register();
            // The last duration is a fair estimate of the next one.
            self.registration = clock.elapsed().min(MAX_REGISTRATION);
            result
        })
    }
}
