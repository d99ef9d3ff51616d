//! The end of a process that is not a child, without a daemon.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{ExitStatus, Pid, Source, StartTime};
use tokio::time::{Instant, sleep};

use super::super::exit_code::ExitCode;
use super::super::failure::Failure;
use crate::sys::process_table::{self, ProcessTable};
use crate::watch::identity::WatchError;
use crate::{ExitWatcher, Sources, Watch};

/// How long to wait for the parent to reap the process: until then the kernel does not tell the exit
/// status to everyone.
const REAPED_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A process that is watched.
pub(super) struct Process {
    pid: Pid,
    table: Arc<dyn ProcessTable>,
    start_time: Option<StartTime>,
    /// Its own one, which keeps the exit status after the process was reaped.
    pidfd: Option<OwnedFd>,
    /// `None`: it had ended before it could be watched.
    watch: Option<Watch>,
    _watcher: ExitWatcher,
}

impl Process {
    /// Watches the process that has this pid now.
    pub(super) async fn pin(pid: Pid) -> Result<Self, Failure> {
        let table = process_table::of_this_system();
        // Opened first: what is watched later is the same process if this one still has the pid then.
        let pidfd = table.pidfd_open(pid).ok();
        let start_time = table.stat(pid).ok().map(|stat| stat.start_time);
        let watcher = ExitWatcher::builder().sources(sources()).start().await;
        let found = watcher.watch(pid);
        let is_gone = |pidfd: &OwnedFd| matches!(table.pidfd_reaped(pidfd.as_fd()), Ok(true));
        let watch = match found {
            Ok(watch) if !pidfd.as_ref().is_some_and(is_gone) => Some(watch),
            // It has ended meanwhile, and the pid may be another process's by now.
            Ok(_) => None,
            Err(WatchError::Gone(_)) if pidfd.is_some() => None,
            Err(error) => return Err(unwatched(pid, error)),
        };
        Ok(Self {
            pid,
            table,
            start_time,
            pidfd,
            watch,
            _watcher: watcher,
        })
    }

    /// When it started, in clock ticks since boot.
    pub(super) fn start_time(&self) -> Option<StartTime> {
        self.start_time
    }

    /// Waits for its end. Returns its exit status if the kernel tells it. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Option<ExitStatus> {
        if let Some(watch) = &mut self.watch {
            // The watcher is as old as this process.
            let status = watch.await.ok().and_then(|exit| exit.status());
            self.watch = None;
            if status.is_some() {
                return status;
            }
        }
        self.status_once_reaped().await
    }

    async fn status_once_reaped(&self) -> Option<ExitStatus> {
        let pidfd = self.pidfd.as_ref()?.as_fd();
        let deadline = Instant::now() + REAPED_WITHIN;
        loop {
            let is_reaped = matches!(self.table.pidfd_reaped(pidfd), Ok(true));
            let status = self
                .table
                .wait_status(self.pid, self.start_time, Some(pidfd));
            if let Some(status) = status {
                return Some(ExitStatus::from_wait_status(status));
            }
            if is_reaped || Instant::now() >= deadline {
                return None;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// The sources of the watch: a pidfd is enough where the kernel keeps the exit status in it.
fn sources() -> Sources {
    #[cfg(target_os = "linux")]
    {
        let first = procfs::KernelVersion::new(6, 15, 0);
        if procfs::KernelVersion::current().is_ok_and(|version| version >= first) {
            return Sources::only([Source::Pidfd]);
        }
    }
    Sources::only([Source::Pidfd, Source::Netlink])
}

fn unwatched(pid: Pid, error: WatchError) -> Failure {
    match error {
        WatchError::ThreadId { process } => Failure {
            code: ExitCode::Usage,
            ..Failure::new(
                format!("{pid} is the id of a thread"),
                format!("reaperd wait {process}"),
            )
        },
        WatchError::Gone(_) => Failure {
            code: ExitCode::NoSession,
            ..Failure::new(
                format!("there is no process {pid}"),
                format!("reaperd wait --id {pid}   (for a session with this id)"),
            )
        },
    }
}
