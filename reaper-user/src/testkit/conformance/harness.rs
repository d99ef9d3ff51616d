//! A watcher with one set of sources, and the helpers of the cases. It records what it observes for the
//! caller.

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

/// Too long to hide a missed exit, however slow the machine is.
const NO_SWEEP: Duration = Duration::from_hours(1);
const QUICK_SWEEP: Duration = Duration::from_millis(50);
/// After this time an exit counts as missed. A source on an emulated machine needs far less.
const EXIT_TIMEOUT: Duration = Duration::from_secs(25);
/// The sweep that a source requests at its start is over after this time.
const START_SWEEP_TIME: Duration = Duration::from_secs(1);
/// All rechecks that follow every hint are over after this time. Hints that are not from the connector get
/// two more, up to four seconds later. The harness does not wait for these: every recheck is the same, so a
/// process that passed the fifth and still lives passes the seventh.
const RECHECK_TIME: Duration = Duration::from_millis(200);

/// A detected exit.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// The source that sent the hint.
    pub source: Source,
    /// The time from just before the end of the process was requested until its exit was reported. `None`
    /// if several watches share the exit or the time was not measured.
    pub delay: Option<Duration>,
}

/// A watcher whose sources have started or failed.
pub struct Harness {
    source_set: SourceSet,
    /// The `reaperd` binary, which also runs the test processes.
    program: PathBuf,
    watcher: ExitWatcher,
    runtime: Runtime,
    /// Until then the sweep that follows the start of a source may be the first to detect an exit.
    start_sweep: Deadline,
    observed: Mutex<Vec<Observed>>,
}

impl Harness {
    /// Starts the sources of a set and waits until each has started or failed. Creates its own tokio
    /// runtime, so it must not be called within another one.
    pub fn start(source_set: SourceSet, program: PathBuf) -> io::Result<Self> {
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
            start_sweep: Deadline::after(START_SWEEP_TIME),
            observed: Mutex::default(),
        })
    }

    /// Returns the status of the sources in the set.
    pub fn status(&self) -> Vec<SourceStatus> {
        let mut status = self.watcher.status();
        status.retain(|status| self.source_set.sources().contains(&status.source));
        status
    }

    /// Returns the exits that were detected since the last call.
    pub fn take_observed(&self) -> Vec<Observed> {
        std::mem::take(&mut *self.observed())
    }

    fn observed(&self) -> MutexGuard<'_, Vec<Observed>> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn test_process(&self, kind: Kind) -> io::Result<TestProcess> {
        TestProcess::spawn(&self.program, kind)
    }

    /// Starts a test process with a chosen pid.
    #[cfg(target_os = "linux")]
    pub(super) fn test_process_at(&self, pid: Pid, kind: Kind) -> io::Result<TestProcess> {
        TestProcess::take_pid(&self.program, kind, pid)
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, reason = "as on Linux")]
    pub(super) fn test_process_at(&self, _pid: Pid, _kind: Kind) -> io::Result<TestProcess> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Watches a process. Returns `None` if the watcher refuses the process as dead.
    pub(super) fn try_watch(&self, pid: Pid) -> Option<PendingWatch> {
        let _inside = self.runtime.enter();
        let watch = self.watcher.watch(pid).ok()?;
        let reported = self.runtime.spawn(async {
            let exit = watch.await.map_err(io::Error::other)?;
            Ok((exit, monotonic_ns()))
        });
        Some(PendingWatch {
            reported,
            end_requested_ns: None,
        })
    }

    /// Watches a process that is alive.
    pub(super) fn watch(&self, test_process: &TestProcess) -> Result<PendingWatch, Fault> {
        let refused = || Fault::FalseDeath("its registration was refused".into());
        self.try_watch(test_process.pid()).ok_or_else(refused)
    }

    /// Waits until the exit is reported. Fails if the status differs, or if it is missing and the sources
    /// of this set always report it.
    pub(super) fn expect_exit(
        &self,
        watch: PendingWatch,
        status: ExitStatus,
    ) -> Result<ProcessExit, Fault> {
        let exit = self.wait_for_exit(watch)?;
        let is_right = match exit.status() {
            Some(reported) => reported == status,
            None => !self.source_set.reports_status(),
        };
        if is_right {
            return Ok(exit);
        }
        Err(Fault::WrongReport(format!("{exit}; expected {status:?}")))
    }

    /// Waits until the exit is reported, with any status. Fails if a source outside the set reports it.
    pub(super) fn wait_for_exit(&self, watch: PendingWatch) -> Result<ProcessExit, Fault> {
        let PendingWatch {
            reported,
            end_requested_ns,
        } = watch;
        let limited = async { tokio::time::timeout(EXIT_TIMEOUT, reported).await };
        let (exit, reported_ns) = match self.runtime.block_on(limited) {
            Ok(Ok(reported)) => reported?,
            Ok(Err(panicked)) => return Err(io::Error::other(panicked).into()),
            Err(_) => return Err(Fault::Missed(EXIT_TIMEOUT)),
        };
        let source = exit.source();
        let delay = end_requested_ns
            .map(|requested| Duration::from_nanos(reported_ns.saturating_sub(requested)));
        self.observed().push(Observed { source, delay });
        let in_set = source == Source::Register || self.source_set.sources().contains(&source);
        // Long before the next regular sweep, so a source requested this one.
        let requested_sweep =
            source == Source::Sweep && (!self.start_sweep.has_passed() || self.has_lost_events());
        if in_set || requested_sweep {
            return Ok(exit);
        }
        Err(Fault::WrongReport(format!(
            "{exit}; this source is not under test"
        )))
    }

    /// Returns whether a source of the set lost events, for which it requests a sweep.
    fn has_lost_events(&self) -> bool {
        self.status().iter().any(|status| status.lost > 0)
    }

    /// Waits until all events so far have been handled and rechecked: other processes die and are reported
    /// until no recheck is left that could find anything new.
    fn drain_events(&self) -> Result<(), Fault> {
        let rechecks = Deadline::after(RECHECK_TIME);
        while !rechecks.has_passed() {
            let mut other = self.test_process(Kind::Sleep)?;
            let mut watch = self.watch(&other)?;
            watch.end_by(|| other.kill())?;
            self.wait_for_exit(watch)?;
        }
        Ok(())
    }

    /// Fails if this living process is reported as dead. `what` describes what happened to it.
    pub(super) fn expect_alive(&self, watch: &PendingWatch, what: &str) -> Result<(), Fault> {
        self.expect_all_alive([watch], what)
    }

    /// Fails if one of these living processes is reported as dead.
    pub(super) fn expect_all_alive<'watch>(
        &self,
        watches: impl IntoIterator<Item = &'watch PendingWatch>,
        what: &str,
    ) -> Result<(), Fault> {
        self.drain_events()?;
        if watches.into_iter().any(|one| one.reported.is_finished()) {
            return Err(Fault::FalseDeath(what.to_owned()));
        }
        Ok(())
    }
}

/// A watch whose exit may be reported at any time.
pub(super) struct PendingWatch {
    reported: JoinHandle<io::Result<(ProcessExit, u64)>>,
    end_requested_ns: Option<u64>,
}

impl PendingWatch {
    /// Runs the action that ends the process. The delay of the report counts from here.
    pub(super) fn end_by(&mut self, end: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.end_requested_ns = Some(monotonic_ns());
        end()
    }
}
