//! The ways to die, mixed.

use std::time::Duration;

use reaper_tests::fork_server::{CUE, ForkServer, Kind, LAST_CUE, kill, signal};
use reaper_tests::wait::{Deadline, eventually};

use crate::line_of;

/// A way to die.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    ExitWell,
    ExitBadly,
    Killed,
    Fault,
    Abort,
    /// Its first thread leaves, and later its last one ends it.
    LeaderFirst,
    /// Killed with several threads.
    Threads,
    /// Killed while it is being registered.
    DuringRegistration,
    /// Killed, and nobody collects it until the end of the wave.
    Unreaped,
    /// Two deaths: its parent's, and later its own.
    ParentFirst,
}

pub(crate) const WAYS: [Way; 10] = [
    Way::ExitWell,
    Way::Killed,
    Way::LeaderFirst,
    Way::ExitBadly,
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
            Self::ExitWell => Kind::Exit { code: 0 },
            Self::ExitBadly => Kind::Exit { code: 7 },
            Self::Killed | Self::DuringRegistration | Self::Unreaped => Kind::Idle { megabytes: 0 },
            Self::Fault => Kind::Fault,
            Self::Abort => Kind::Abort,
            Self::LeaderFirst => Kind::LeaderFirst,
            Self::Threads => Kind::Threads { number: 3 },
            Self::ParentFirst => Kind::ParentFirst,
        }
    }

    /// So many processes of this way.
    pub(crate) fn start(
        self,
        number: usize,
        collected: &mut ForkServer,
        kept: &mut ForkServer,
    ) -> Vec<u32> {
        match self {
            Self::Unreaped => kept.start(number, self.kind()),
            Self::ParentFirst => collected.start(number / 2, self.kind()),
            _ => collected.start(number, self.kind()),
        }
        .unwrap()
    }

    /// How it ends: a code, or a signal behind a minus. Whose word counts where the first thread left
    /// first differs between kernels; the suite `contract` holds the daemon to what the parent is told.
    pub(crate) fn ends(self) -> Option<i32> {
        match self {
            Self::ExitWell | Self::ParentFirst => Some(0),
            Self::ExitBadly => Some(7),
            Self::Fault => Some(-11),
            Self::Abort => Some(-6),
            Self::LeaderFirst => None,
            Self::Killed | Self::Threads | Self::DuringRegistration | Self::Unreaped => Some(-9),
        }
    }

    /// Whether [`Self::first_blow`] leaves it alive.
    pub(crate) fn survives_the_first(self) -> bool {
        self == Self::LeaderFirst
    }

    pub(crate) fn first_blow(self, pid: u32) {
        let done = match self {
            Self::ExitWell
            | Self::ExitBadly
            | Self::Fault
            | Self::Abort
            | Self::LeaderFirst
            | Self::ParentFirst => signal(pid, CUE),
            Self::Killed | Self::Threads | Self::DuringRegistration | Self::Unreaped => kill(pid),
        };
        done.unwrap();
    }
}

/// The first thread of a process has left and is a zombie, while the others run.
pub(crate) fn leader_has_left(pid: u32) {
    eventually("its first thread leaves", || {
        line_of(pid, "status", "State:").is_some_and(|state| state.starts_with('Z'))
    });
}

/// Ends what is left of [`Way::LeaderFirst`].
pub(crate) fn last_thread_ends(pid: u32) {
    signal(pid, LAST_CUE).unwrap();
}

/// Kills that hit every stage of a registration. The pause before each is spread over twice the time
/// that a registration takes here.
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

    /// Runs `register` while its process is killed.
    pub(crate) fn race<T>(&mut self, pid: u32, register: impl FnOnce() -> T) -> T {
        /// Different pauses.
        const STAGES: u32 = 32;
        /// An outlier shall not make the next pauses long.
        const LONGEST: Duration = Duration::from_millis(20);
        self.round += 1;
        let pause = self.registration * 2 / STAGES * (self.round % STAGES);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let began = Deadline::after(pause);
                while !began.has_passed() {
                    std::thread::yield_now();
                }
                kill(pid).unwrap();
            });
            let began = Deadline::after(LONGEST);
            let answer = register();
            // What it took last time is a fair guess of what it takes next time.
            self.registration = began.elapsed().min(LONGEST);
            answer
        })
    }
}
