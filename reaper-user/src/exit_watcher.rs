//! Watches any process and reports once, with the reason, that it has ended.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use reaper_registry::{Death, ExitStatus, Pid, ProcessId, Source};
use tokio::sync::oneshot;

use crate::engine::{Engine, Handler, Prepared, Settings, Sources};
use crate::sources;
use crate::watch::identity::WatchError;
use crate::watch::reap_loop::Commit;
use crate::watch::set::WatchGuard;
use crate::watch::status::SourceStatus;

/// Watches processes and reports their exits: any process, not only children.
///
/// Needs no privilege. With privileges it uses faster sources and reports the exit status of
/// processes that are not children; see the [crate documentation](crate#sources).
///
/// Dropping it ends every [`Watch`] that it returned with [`WatcherStopped`].
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use reaperd::{ExitWatcher, Pid};
///
/// let watcher = ExitWatcher::builder().start().await;
/// let mut child = std::process::Command::new("sleep").arg("0.1").spawn()?;
/// let exit = watcher.watch(Pid::try_from(child.id())?)?.await?;
/// println!("{exit}"); // pid 48301 exited with code 0, reported by netlink
/// assert_eq!(exit.pid().get(), child.id());
/// child.wait()?;
/// # Ok(()) }
/// # tokio::runtime::Runtime::new()?.block_on(run())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ExitWatcher {
    engine: Engine,
    waiting: Waiting,
}

/// Configures an [`ExitWatcher`].
#[derive(Debug, Default)]
#[must_use]
pub struct ExitWatcherBuilder(Settings);

impl ExitWatcherBuilder {
    /// Which sources to run. Default: [`Sources::Auto`].
    pub fn sources(mut self, sources: Sources) -> Self {
        self.0.sources = sources;
        self
    }

    /// How often every watched process is checked, whatever the other sources report. Default: 5 s.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.0.sweep_interval = interval;
        self
    }

    /// How many processes may be pinned by a pidfd each. Beyond it a process is identified by its
    /// start time. Default: most of what the limit of open descriptors leaves at the start.
    pub fn max_pidfds(mut self, count: usize) -> Self {
        self.0.max_pidfds = Some(count);
        self
    }

    /// Puts the hints of the event sources through a filter. For tests.
    #[cfg(feature = "testkit")]
    pub(crate) fn hint_filter(mut self, filter: Arc<dyn crate::engine::HintFilter>) -> Self {
        self.0.hint_filter = Some(filter);
        self
    }

    /// Starts the sources, and waits until each one except the eBPF probe has reported its state.
    ///
    /// Must be awaited within a tokio runtime with time and I/O enabled. Cancel-safe: a cancelled
    /// start stops what it started.
    pub async fn start(self) -> ExitWatcher {
        let waiting = Waiting::default();
        let engine = Prepared::new(self.0).start(waiting.clone());
        engine.first_reports(&sources::QUICK).await;
        ExitWatcher { engine, waiting }
    }
}

impl Drop for ExitWatcher {
    fn drop(&mut self) {
        self.waiting.stop();
    }
}

impl ExitWatcher {
    /// Returns a builder with default settings.
    pub fn builder() -> ExitWatcherBuilder {
        ExitWatcherBuilder::default()
    }

    /// Watches the process that has this pid now.
    ///
    /// The returned future resolves once every thread of that process has ended, even if another
    /// process has the pid by then. Dropping the future ends the watch.
    ///
    /// # Errors
    ///
    /// [`WatchError::Gone`] if no such process exists, [`WatchError::ThreadId`] if the id is that of a
    /// thread which is not the main thread of its process.
    pub fn watch(&self, pid: Pid) -> Result<Watch, WatchError> {
        let guard = self.engine.watched.watch(pid)?;
        let (sender, receiver) = oneshot::channel();
        let process = guard.watched.id;
        self.waiting.add(process, sender);
        guard.recheck();
        Ok(Watch {
            process,
            waiting: self.waiting.clone(),
            pid,
            receiver,
            _guard: guard,
        })
    }

    /// Waits until every source, the eBPF probe included, has reported its state. Cancel-safe.
    pub async fn settled(&self) {
        self.engine.first_reports(&sources::ALL).await;
    }

    /// Returns the state of each source.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.engine.status()
    }
}

impl fmt::Debug for ExitWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExitWatcher")
            .field("processes", &self.engine.watched.len())
            .finish_non_exhaustive()
    }
}

/// A watched process: a future of its exit. Cancel-safe.
#[must_use = "dropping it ends the watch"]
pub struct Watch {
    pid: Pid,
    process: ProcessId,
    waiting: Waiting,
    receiver: oneshot::Receiver<Death>,
    _guard: WatchGuard,
}

impl Watch {
    /// The pid that was passed to [`ExitWatcher::watch`].
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl Future for Watch {
    type Output = Result<ProcessExit, WatcherStopped>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let pid = self.pid;
        Pin::new(&mut self.receiver).poll(context).map(|received| {
            received
                .map(|death| ProcessExit { pid, death })
                .map_err(|_no_sender| WatcherStopped)
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.receiver.close();
        self.waiting.forget_dropped(self.process);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// The [`ExitWatcher`] was dropped before the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watcher was stopped before the process ended")]
pub struct WatcherStopped;

/// How a watched process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessExit {
    pid: Pid,
    death: Death,
}

impl ProcessExit {
    /// The pid that the process had.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The source that reported the exit first.
    pub fn source(&self) -> Source {
        self.death.source
    }

    /// The exit status. `None` where no source could read it; see the
    /// [crate documentation](crate#exit-status).
    pub fn status(&self) -> Option<ExitStatus> {
        self.death.exit.map(|exit| exit.status)
    }

    /// The time from the exit, as the kernel recorded it, to its detection. `None` where no source
    /// gave the time of the exit.
    pub fn detection(&self) -> Option<Duration> {
        self.death.detection
    }

    /// Everything that is known of this death.
    pub fn death(&self) -> &Death {
        &self.death
    }
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ", self.pid)?;
        match self.status() {
            Some(ExitStatus::Code(code)) => write!(f, "exited with code {code}")?,
            Some(ExitStatus::Signal { signal, .. }) => write!(f, "was killed by signal {signal}")?,
            None => write!(f, "ended")?,
        }
        write!(f, ", reported by {}", self.source())
    }
}

type Senders = HashMap<ProcessId, Vec<oneshot::Sender<Death>>>;

/// The watches that have not resolved yet.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<Senders>>);

impl Waiting {
    fn add(&self, process: ProcessId, sender: oneshot::Sender<Death>) {
        self.lock().entry(process).or_default().push(sender);
    }

    /// Ends every watch. Their wakers run without the lock.
    fn stop(&self) {
        let senders = std::mem::take(&mut *self.lock());
        drop(senders);
    }

    fn forget_dropped(&self, process: ProcessId) {
        let mut waiting = self.lock();
        let Some(senders) = waiting.get_mut(&process) else {
            return;
        };
        senders.retain(|sender| !sender.is_closed());
        if senders.is_empty() {
            waiting.remove(&process);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Senders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Commit for Waiting {
    fn commit(&self, process: ProcessId, death: Death) -> bool {
        let senders = self.lock().remove(&process);
        for sender in senders.into_iter().flatten() {
            if sender.send(death).is_err() {
                log::trace!("a watch was dropped as its process ended");
            }
        }
        false
    }
}

impl Handler for Waiting {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Sleeper;

    #[tokio::test]
    async fn a_watch_ends_with_an_error_when_its_watcher_is_dropped() {
        let watcher = ExitWatcher::builder()
            .sources(Sources::only([]))
            .start()
            .await;
        let sleeper = Sleeper::start();
        let watch = watcher.watch(sleeper.pid()).unwrap();
        drop(watcher);
        let ended = tokio::time::timeout(Duration::from_secs(10), watch).await;
        assert_eq!(
            ended.expect("it does not pend for ever"),
            Err(WatcherStopped)
        );
    }
}
