//! A watcher with the sources of one mode, and what every check needs of it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; the reason of a skip is printed"
)]

use std::time::Duration;

use reaper_registry::{ExitStatus, Pid, Source};
use reaper_tests::daemon::reaperd;
use reaper_tests::expect::{self, SKIP_MARK, State};
use reaper_tests::wait::{Deadline, eventually};
use reaper_user::victims::{Kind, Victim};
use reaper_user::{ExitWatcher, ProcessExit, SourceStatus, Sources, Watch};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

pub(crate) const KILLED: ExitStatus = ExitStatus::Signal {
    signal: 9,
    core: false,
};

/// Longer than any end may take to be seen.
const NO_SWEEP: Duration = Duration::from_mins(1);
const QUICK_SWEEP: Duration = Duration::from_millis(50);
/// An end that takes longer was missed: half of what the sweep beneath would need.
const SEEN_WITHIN: Duration = Duration::from_secs(25);
/// So long after its start a source may still have everybody looked at.
const STARTED_WITHIN: Duration = Duration::from_secs(1);
/// The loop looks again for so long at a process that was pointed at and lives.
const LOOKED_AGAIN_FOR: Duration = Duration::from_millis(200);

/// Which sources run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Ebpf,
    Netlink,
    Pidfd,
    Sweep,
    Together,
}

impl Mode {
    fn sources(self) -> &'static [Source] {
        match self {
            Self::Ebpf => &[Source::Ebpf],
            Self::Netlink => &[Source::Netlink],
            Self::Pidfd => &[Source::Pidfd],
            Self::Sweep => &[Source::Sweep],
            Self::Together => &[Source::Ebpf, Source::Netlink, Source::Pidfd],
        }
    }

    /// Whether its events say how a process ended.
    fn tells_status(self) -> bool {
        matches!(self, Self::Ebpf | Self::Netlink)
    }
}

/// A watcher whose sources have said that they work.
pub(crate) struct Stage {
    mode: Mode,
    watcher: ExitWatcher,
    runtime: Runtime,
    /// Until then the sweep that follows the start of a source may be the first to see an end.
    started: Deadline,
}

impl Stage {
    /// `None`, with the reason printed, where the sources of this mode do not work and need not.
    pub(crate) fn open(mode: Mode) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let interval = if mode == Mode::Sweep {
            QUICK_SWEEP
        } else {
            NO_SWEEP
        };
        let builder = ExitWatcher::builder()
            .sources(Sources::only(mode.sources().iter().copied()))
            .sweep_every(interval);
        let watcher = runtime.block_on(builder.start());
        let stage = Self {
            mode,
            watcher,
            runtime,
            started: Deadline::after(STARTED_WITHIN),
        };
        let states: Vec<_> = mode
            .sources()
            .iter()
            .map(|one| stage.report(*one))
            .collect();
        // Together they are whatever works here.
        let usable = states.iter().filter(|status| is_usable(status)).count();
        (usable == states.len() || mode == Mode::Together).then_some(stage)
    }

    /// How the source is, once it has said so.
    fn report(&self, source: Source) -> SourceStatus {
        let of_it = || {
            self.watcher
                .status()
                .into_iter()
                .find(|one| one.source == source)
        };
        eventually("the source says how it is", || {
            of_it().is_some_and(|status| status.health.is_some())
        });
        of_it().unwrap()
    }

    pub(crate) fn victim(kind: Kind) -> Victim {
        Victim::spawn(reaperd(), kind).unwrap()
    }

    /// The watch itself, where the process may have ended already.
    pub(crate) fn try_watch(&self, pid: Pid) -> Option<Watching> {
        let _inside = self.runtime.enter();
        let watch: Watch = self.watcher.watch(pid).ok()?;
        Some(Watching(self.runtime.spawn(watch)))
    }

    pub(crate) fn watch(&self, victim: &Victim) -> Watching {
        self.try_watch(victim.pid()).expect("it lives")
    }

    /// Waits until the end is seen, and holds it to what the sources of this mode can know.
    pub(crate) fn end_of(&self, watching: Watching, status: ExitStatus) -> ProcessExit {
        let exit = self.seen_end(watching);
        match exit.status() {
            Some(told) => assert_eq!(told, status, "{exit}"),
            None => assert!(!self.mode.tells_status(), "{exit}"),
        }
        exit
    }

    /// The same for one of whose status nothing is expected.
    pub(crate) fn seen_end(&self, watching: Watching) -> ProcessExit {
        let mode = self.mode;
        let limited = async { tokio::time::timeout(SEEN_WITHIN, watching.0).await };
        let exit = self.runtime.block_on(limited);
        let exit = exit
            .unwrap_or_else(|_| panic!("{mode:?} missed an end: not seen within {SEEN_WITHIN:?}"))
            .unwrap();
        let known = exit.source() == Source::Register || mode.sources().contains(&exit.source());
        let of_the_start = exit.source() == Source::Sweep && !self.started.has_passed();
        assert!(known || of_the_start, "{mode:?}: {exit}");
        exit
    }

    /// Returns when whatever has happened so far has been seen and looked at for the last time:
    /// others have ended later and were reported, until no look of the loop's is left.
    pub(crate) fn settle(&self) {
        let began = Deadline::after(LOOKED_AGAIN_FOR);
        loop {
            let mut other = Self::victim(Kind::Sleep);
            let watching = self.watch(&other);
            other.kill().unwrap();
            self.seen_end(watching);
            if began.has_passed() {
                return;
            }
        }
    }

    /// Fails if anybody takes this living process for a dead one.
    pub(crate) fn lives(&self, watching: &Watching, what: &str) {
        self.settle();
        let mode = self.mode;
        assert!(!watching.0.is_finished(), "{mode:?}: a false death: {what}");
    }
}

/// A watch that is being waited for.
pub(crate) struct Watching(JoinHandle<ProcessExit>);

/// The shared rule for what does not work here, in the words of the matrix.
fn is_usable(status: &SourceStatus) -> bool {
    let name = status.source.name();
    if status.works() {
        return expect::available(name, &State::Up);
    }
    let reason = &status.reason;
    if reason.contains("pid namespace of its own") {
        // By design and not by the kernel's word, which would let us in.
        println!("{SKIP_MARK}{name}: {reason}");
        return false;
    }
    let word = [
        ("initial network", "ECONNREFUSED"),
        ("not in the initial", "no-ack"),
        ("CAP_NET_ADMIN is missing", "EPERM"),
        ("not permitted", "EPERM"),
    ]
    .into_iter()
    .find(|(text, _)| reason.contains(text));
    expect::available(name, &State::down(word.map_or(reason, |(_, word)| word)))
}
