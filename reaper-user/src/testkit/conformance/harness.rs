//! A watcher with the sources of one lineup, and what every case needs of it. What it observes is
//! kept for whoever plays the cases.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reaper_registry::{ExitStatus, Pid, Source};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::{Fault, SourceSet};
use crate::clock::{Deadline, monotonic_ns};
use crate::testkit::test_process::{Kind, TestProcess};
use crate::{ExitWatcher, ProcessExit, SourceStatus, Sources};

pub(super) const KILLED: ExitStatus = ExitStatus::Signal {
    signal: 9,
    core: false,
};

/// So long that it makes up for nothing, however slow the machine.
const NO_SWEEP: Duration = Duration::from_hours(1);
const QUICK_SWEEP: Duration = Duration::from_millis(50);
/// An end that takes longer was missed: far longer than a source takes on an emulated machine.
const SEEN_WITHIN: Duration = Duration::from_secs(25);
/// So long after its start a source may still have everybody looked at.
const STARTED_WITHIN: Duration = Duration::from_secs(1);
/// All looks that the loop takes at every suspect lie within this time. Two more, up to four seconds
/// later, are for those whom the connector did not point at; they are not waited for: each look asks
/// the same of the same process, so who lives by the fifth and lives on does so by the seventh.
const LOOKED_AGAIN_FOR: Duration = Duration::from_millis(200);

/// An end that was seen.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// Whose hint it was.
    pub source: Source,
    /// What passed from just before the process was told to end until the end was told; none where
    /// several things ended it or nobody waited for it.
    pub late: Option<Duration>,
}

/// A watcher whose sources have said how they are.
pub struct Harness {
    source_set: SourceSet,
    /// The `reaperd` binary, which the test processes are.
    program: PathBuf,
    watcher: ExitWatcher,
    runtime: Runtime,
    /// Until then the sweep that follows the start of a source may be the first to see an end.
    started: Deadline,
    observed: Mutex<Vec<Observed>>,
}

impl Harness {
    /// Starts the sources of a lineup and waits until each has said how it is. Not to be called
    /// within a tokio runtime: it brings its own.
    pub fn open(source_set: SourceSet, program: PathBuf) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let interval = if source_set == SourceSet::Alone(Source::Sweep) {
            QUICK_SWEEP
        } else {
            NO_SWEEP
        };
        let builder = ExitWatcher::builder()
            .sources(Sources::only(source_set.sources()))
            .sweep_interval(interval);
        let watcher = runtime.block_on(async {
            let watcher = builder.start().await;
            watcher.settled().await;
            watcher
        });
        Ok(Self {
            source_set,
            program,
            watcher,
            runtime,
            started: Deadline::after(STARTED_WITHIN),
            observed: Mutex::default(),
        })
    }

    /// How the sources of the lineup are.
    pub fn reports(&self) -> Vec<SourceStatus> {
        let mut reports = self.watcher.status();
        reports.retain(|status| self.source_set.sources().contains(&status.source));
        reports
    }

    /// What was seen since this was last asked.
    pub fn take_observed(&self) -> Vec<Observed> {
        std::mem::take(&mut *self.observed())
    }

    fn observed(&self) -> MutexGuard<'_, Vec<Observed>> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn test_process(&self, kind: Kind) -> io::Result<TestProcess> {
        TestProcess::spawn(&self.program, kind)
    }

    /// A test process under a number of our choice.
    #[cfg(target_os = "linux")]
    pub(super) fn test_process_at(&self, number: Pid, kind: Kind) -> io::Result<TestProcess> {
        TestProcess::take_pid(&self.program, kind, number)
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, reason = "as on Linux")]
    pub(super) fn test_process_at(&self, _number: Pid, _kind: Kind) -> io::Result<TestProcess> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The watch itself, where the process may have ended already.
    pub(super) fn try_watch(&self, pid: Pid) -> Option<Watching> {
        let _inside = self.runtime.enter();
        let watch = self.watcher.watch(pid).ok()?;
        let told = self.runtime.spawn(async {
            let exit = watch.await.map_err(io::Error::other)?;
            Ok((exit, monotonic_ns()))
        });
        Some(Watching {
            told,
            ordered_ns: None,
        })
    }

    pub(super) fn watch(&self, test_process: &TestProcess) -> Result<Watching, Fault> {
        let refused =
            || Fault::FalseDeath("it was refused as gone when it was to be watched".into());
        self.try_watch(test_process.pid()).ok_or_else(refused)
    }

    /// Waits until the end is seen, and holds it to what the sources of this lineup can know.
    pub(super) fn end_of(
        &self,
        watching: Watching,
        status: ExitStatus,
    ) -> Result<ProcessExit, Fault> {
        let exit = self.seen_end(watching)?;
        let is_true = match exit.status() {
            Some(told) => told == status,
            None => !self.source_set.tells_status(),
        };
        if is_true {
            return Ok(exit);
        }
        Err(Fault::Untrue(format!("{exit}, and it was {status:?}")))
    }

    /// The same for one of whose status nothing is expected.
    pub(super) fn seen_end(&self, watching: Watching) -> Result<ProcessExit, Fault> {
        let Watching { told, ordered_ns } = watching;
        let limited = async { tokio::time::timeout(SEEN_WITHIN, told).await };
        let (exit, told_ns) = match self.runtime.block_on(limited) {
            Ok(Ok(told)) => told?,
            Ok(Err(panicked)) => return Err(io::Error::other(panicked).into()),
            Err(_) => return Err(Fault::Missed(SEEN_WITHIN)),
        };
        let source = exit.source();
        let late = ordered_ns.map(|ordered| Duration::from_nanos(told_ns.saturating_sub(ordered)));
        self.observed().push(Observed { source, late });
        let known = source == Source::Register || self.source_set.sources().contains(&source);
        let of_the_start = source == Source::Sweep && !self.started.has_passed();
        if known || of_the_start || source == Source::Sweep && self.has_lost() {
            return Ok(exit);
        }
        // Long before the sweep beneath was due: its own source had everybody looked at.
        Err(Fault::Untrue(format!(
            "{exit}, which was not in the lineup"
        )))
    }

    /// A source of the lineup says that it lost events, and so had everybody looked at.
    fn has_lost(&self) -> bool {
        let sources = self.source_set.sources();
        let status = self.watcher.status();
        status
            .iter()
            .any(|one| sources.contains(&one.source) && one.lost > 0)
    }

    /// Returns when whatever has happened so far has been seen and looked at for the last time:
    /// others have ended later and were reported, until no look is left that could say anything new.
    fn settle(&self) -> Result<(), Fault> {
        let began = Deadline::after(LOOKED_AGAIN_FOR);
        while !began.has_passed() {
            let mut other = self.test_process(Kind::Sleep)?;
            let mut watching = self.watch(&other)?;
            watching.order(|| other.kill())?;
            self.seen_end(watching)?;
        }
        Ok(())
    }

    /// Fails if anybody takes this living process for a dead one.
    pub(super) fn lives(&self, watching: &Watching, what: &str) -> Result<(), Fault> {
        self.all_live([watching], what)
    }

    /// The same for several.
    pub(super) fn all_live<'watch>(
        &self,
        watchings: impl IntoIterator<Item = &'watch Watching>,
        what: &str,
    ) -> Result<(), Fault> {
        self.settle()?;
        if watchings.into_iter().any(|one| one.told.is_finished()) {
            return Err(Fault::FalseDeath(what.to_owned()));
        }
        Ok(())
    }
}

/// A watch that is being waited for.
pub(super) struct Watching {
    told: JoinHandle<io::Result<(ProcessExit, u64)>>,
    ordered_ns: Option<u64>,
}

impl Watching {
    /// Gives the order that ends the process: how late its end is told counts from here.
    pub(super) fn order(&mut self, order: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.ordered_ns = Some(monotonic_ns());
        order()
    }
}
