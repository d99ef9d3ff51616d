//! Watch any process and be told once, with the reason, when it has ended.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use reaper_registry::{Death, ExitStatus, Pid, ProcessId, Source};
use tokio::sync::oneshot;

use crate::engine::{Settings, Sources, Watcher};
use crate::sources;
use crate::testkit::fault_injection::Faults;
use crate::watch::identity::NotPinned;
use crate::watch::reap_loop::Commit;
use crate::watch::set::WatchGuard;
use crate::watch::status::SourceStatus;

/// Tells of the end of processes: any process, not only children; no privilege is needed. Dropped, it
/// ends every [`Watch`] that it gave out with [`WatcherStopped`].
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use reaperd::{ExitWatcher, Pid};
///
/// let watcher = ExitWatcher::builder().start().await;
/// let mut child = std::process::Command::new("sleep").arg("0.1").spawn()?;
/// let exit = watcher.watch(Pid::try_from(child.id())?)?.await?;
/// println!("{exit}"); // pid 48301 exited with code 0, seen by netlink
/// assert_eq!(exit.pid.get(), child.id());
/// child.wait()?;
/// # Ok(()) }
/// # tokio::runtime::Runtime::new()?.block_on(run())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ExitWatcher {
    watcher: Watcher,
    waiting: Waiting,
}

/// Chooses how to watch.
#[derive(Default)]
pub struct ExitWatcherBuilder(Settings);

impl ExitWatcherBuilder {
    /// Which sources to run; all that work here unless set.
    pub fn sources(mut self, sources: Sources) -> Self {
        self.0.sources = sources;
        self
    }

    /// How often everybody is looked at whatever the other sources say; 5 s unless set.
    pub fn sweep_every(mut self, interval: Duration) -> Self {
        self.0.sweep_interval = interval;
        self
    }

    /// For tests: what befalls the hints of the event sources.
    #[doc(hidden)]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.0.faults = Some(faults);
        self
    }

    /// Starts watching, and waits until each source but the probe has said how it is. To be awaited within a
    /// tokio runtime; cancelled, it stops what it started.
    pub async fn start(self) -> ExitWatcher {
        let waiting = Waiting::default();
        let committing = waiting.clone();
        let watcher = Watcher::start(self.0, |_| {}, |_| committing, Arc::new(|| {}));
        watcher.first_reports(&sources::QUICK).await;
        ExitWatcher { watcher, waiting }
    }
}

impl Drop for ExitWatcher {
    fn drop(&mut self) {
        self.waiting.stop();
    }
}

impl ExitWatcher {
    /// Chooses how to watch.
    pub fn builder() -> ExitWatcherBuilder {
        ExitWatcherBuilder::default()
    }

    /// Watches the process that has this pid now. The returned future resolves once every thread of that
    /// process has ended, even if the pid belongs to another process by then; dropping it ends the
    /// watch. The id of a thread is refused, with the pid of its process.
    pub fn watch(&self, pid: Pid) -> Result<Watch, NotPinned> {
        let guard = self.watcher.watched.watch(pid)?;
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

    /// Waits until every source, the probe included, has said how it is. Cancel-safe.
    pub async fn settled(&self) {
        self.watcher.first_reports(&sources::ALL).await;
    }

    /// Each source as it stands.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.watcher.status()
    }
}

/// A watched process; a future of its end. Cancel-safe.
#[must_use = "dropping it ends the watch"]
pub struct Watch {
    pid: Pid,
    process: ProcessId,
    waiting: Waiting,
    receiver: oneshot::Receiver<Death>,
    _guard: WatchGuard,
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

/// The [`ExitWatcher`] was dropped before the process ended, so its end cannot be seen any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watcher was stopped before the process ended")]
pub struct WatcherStopped;

/// How a watched process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessExit {
    pub pid: Pid,
    pub death: Death,
}

impl ProcessExit {
    /// Whose hint it was.
    pub fn source(&self) -> Source {
        self.death.source
    }

    /// The status, where somebody knew it.
    pub fn status(&self) -> Option<ExitStatus> {
        self.death.exit.map(|exit| exit.status)
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
        write!(f, ", seen by {}", self.source())
    }
}

/// Who waits for whose end.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<HashMap<ProcessId, Vec<oneshot::Sender<Death>>>>>);

impl Waiting {
    fn add(&self, process: ProcessId, sender: oneshot::Sender<Death>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(process).or_default().push(sender);
    }

    /// Lets every watch know that nothing will come any more. Their wakers run without the lock.
    fn stop(&self) {
        let waiting = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        drop(waiting);
    }

    fn forget_dropped(&self, process: ProcessId) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(senders) = waiting.get_mut(&process) else {
            return;
        };
        senders.retain(|sender| !sender.is_closed());
        if senders.is_empty() {
            waiting.remove(&process);
        }
    }
}

impl Commit for Waiting {
    fn commit(&self, process: ProcessId, death: Death) {
        let senders = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&process);
        for sender in senders.into_iter().flatten() {
            if sender.send(death).is_err() {
                log::trace!("a watch was dropped as its process ended");
            }
        }
    }
}

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
