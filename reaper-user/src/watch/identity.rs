//! The identity of one process, strongest first: an open pidfd, an open stat descriptor, the
//! inode number of its pidfd, the pid with the start time, the pid alone.
//!
//! Pinning opens the handle, reads the record, then checks the handle again. If the process was
//! still there after the read, the record is that of the process behind the handle. The verdict
//! decides whether it was.

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use reaper_registry::{BootTime, Evidence, Exit, ExitStatus, Pid, Source, StartTime};

use crate::clock::{self, monotonic_ns};
use crate::sys::process_table::{ProcessTable, is_no_such_process};
use crate::watch::fd_budget::{FdBudget, Slot};
use crate::watch::verdict::{Verdict, judge, judge_by_poll};

/// The unit of start times: `USER_HZ` of Linux, 100 a second on every architecture that is supported.
const TICK_NS: u128 = 10_000_000;

/// The identity of one process.
#[derive(Debug)]
pub(crate) struct Identity {
    pub pid: Pid,
    pub start_time: Option<StartTime>,
    /// A time on `CLOCK_MONOTONIC` at which it was alive: after it was found and before it was
    /// checked again. An end before that time was another process's.
    pub alive_at_ns: u64,
    /// The latest possible start time, where the start time is unknown: what a process would get
    /// that starts at a moment when this one was alive. A later start time is a successor's.
    started_by: Option<StartTime>,
    /// The inode number that a new pidfd of the process must have.
    pub inode: Option<u64>,
    pub handle: Handle,
}

/// How strongly a process is identified, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdentityStrength {
    /// An open pidfd.
    Pidfd,
    /// An open descriptor of `/proc/PID/stat`.
    Stat,
    /// The inode number of its pidfd.
    PidfdInode,
    /// The pid and the start time.
    StartTime,
    /// The pid alone.
    Pid,
}

impl IdentityStrength {
    /// Returns the name used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pidfd => "pidfd",
            Self::Stat => "stat",
            Self::PidfdInode => "pidfd_inode",
            Self::StartTime => "start_time",
            Self::Pid => "pid",
        }
    }
}

impl fmt::Display for IdentityStrength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is open for the process.
#[derive(Debug)]
pub(crate) enum Handle {
    Pidfd {
        fd: OwnedFd,
        _slot: Slot,
    },
    Stat {
        fd: OwnedFd,
        _slot: Slot,
    },
    /// Nothing: no descriptor could be opened, or this system has neither kind.
    Nothing,
}

/// The process ended before it could be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process is gone")]
pub struct AlreadyGone;

/// Why no process was pinned under a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// No such process exists, or it ended meanwhile.
    #[error(transparent)]
    Gone(#[from] AlreadyGone),
    /// The pid is the id of a thread, which may end before its process does. Use `process`.
    #[error("this is a thread of process {process}; name that one")]
    ThreadId {
        /// The process that the thread belongs to.
        process: Pid,
    },
}

/// What was recorded of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorded {
    pub(crate) pid: Pid,
    pub(crate) start_time: Option<StartTime>,
    pub(crate) inode: Option<u64>,
    /// A time at which it was alive.
    pub(crate) alive_at: BootTime,
}

/// A process that was pinned before has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) evidence: Evidence,
    pub(crate) pid_reused: bool,
    pub(crate) exit: Option<Exit>,
}

/// Returns the start time of a process that started at this time.
fn started_by(table: &dyn ProcessTable, at: BootTime) -> Option<StartTime> {
    let passed = clock::now().boot.since(at);
    let ticks = u64::try_from(passed.as_nanos() / TICK_NS).unwrap_or(u64::MAX);
    Some(StartTime(table.start_time_now()?.0.saturating_sub(ticks)))
}

impl Identity {
    /// Pins the process that has this pid now, as strongly as the system and the budget allow.
    pub(crate) fn pin(
        table: &dyn ProcessTable,
        budget: &Arc<FdBudget>,
        pid: Pid,
    ) -> Result<Self, WatchError> {
        match table.pidfd_open(pid) {
            Ok(pidfd) => Self::pin_by_pidfd(table, budget, pid, pidfd),
            Err(error)
                if is_no_such_process(&error) && matches!(table.pid_in_use(pid), Ok(false)) =>
            {
                Err(AlreadyGone.into())
            }
            // ENOSYS: no pidfds. EPERM: forbidden. EMFILE: out of descriptors. EINVAL: the pid is
            // dying or is the id of a thread (ENOENT on newer kernels, 6.18 for one). None of these
            // means that the process is gone, and a thread cannot be distinguished from a filter or
            // an old kernel.
            Err(_) => Self::pin_by_stat(table, budget, pid),
        }
    }

    fn pin_by_pidfd(
        table: &dyn ProcessTable,
        budget: &Arc<FdBudget>,
        pid: Pid,
        pidfd: OwnedFd,
    ) -> Result<Self, WatchError> {
        let alive_at_ns = monotonic_ns();
        // A hidden entry (hidepid) does no harm: the pidfd is the identity.
        let stat = table.stat(pid).ok();
        // Before the last check of the handle, which shows that the process was still alive then.
        let started_by = stat.is_none().then(|| table.start_time_now()).flatten();
        let inode = table.pidfd_inode(pidfd.as_fd());
        let mut identity = Self {
            pid,
            start_time: stat.map(|stat| stat.start_time),
            alive_at_ns,
            started_by,
            inode,
            handle: Handle::Nothing,
        };
        let readable = table.pidfd_exited(pidfd.as_fd());
        let may_have_ended =
            matches!(readable, Ok(true)) || stat.is_some_and(|stat| stat.main_thread_ended);
        if may_have_ended
            && let Verdict::Gone { .. } = judge_by_poll(&identity, pidfd.as_fd(), readable, table)
        {
            return Err(AlreadyGone.into());
        }
        if let Some(slot) = budget.take() {
            identity.handle = Handle::Pidfd {
                fd: pidfd,
                _slot: slot,
            };
        }
        Ok(identity)
    }

    fn pin_by_stat(
        table: &dyn ProcessTable,
        budget: &Arc<FdBudget>,
        pid: Pid,
    ) -> Result<Self, WatchError> {
        let opened = budget.take().map(|slot| (table.open_stat(pid), slot));
        // A thread has an entry as well. Checked while the entry is open and before it is read: if
        // it can be read afterwards, the result was about the same process.
        match table.tgid_of(pid) {
            Ok(process) if process != pid => return Err(WatchError::ThreadId { process }),
            // If the system does not show it, the pid is in use all the same.
            Ok(_) | Err(_) => {}
        }
        let read = match opened {
            Some((stat, slot)) => stat.and_then(|stat| {
                Ok((
                    table.read_stat(stat.as_fd())?,
                    Handle::Stat {
                        fd: stat,
                        _slot: slot,
                    },
                ))
            }),
            None => table.stat(pid).map(|stat| (stat, Handle::Nothing)),
        };
        // After the read: an end between the two is left to the other checks, but the end of a
        // predecessor cannot be taken for this one's.
        let alive_at_ns = monotonic_ns();
        // Before the check that the pid is in use.
        let started_by = read.is_err().then(|| table.start_time_now()).flatten();
        let (stat, handle) = match read {
            Ok((stat, handle)) => (Some(stat), handle),
            Err(_) if matches!(table.pid_in_use(pid), Ok(false)) => {
                return Err(AlreadyGone.into());
            }
            Err(_) => (None, Handle::Nothing),
        };
        let identity = Self {
            pid,
            start_time: stat.map(|stat| stat.start_time),
            alive_at_ns,
            started_by,
            inode: None,
            handle,
        };
        let may_have_ended = stat.is_some_and(|stat| stat.main_thread_ended);
        if may_have_ended && let Verdict::Gone { .. } = judge(&identity, None, table) {
            return Err(AlreadyGone.into());
        }
        Ok(identity)
    }

    /// Pins a process that was pinned before, by an earlier process of this program.
    pub(crate) fn pin_again(
        table: &dyn ProcessTable,
        budget: &Arc<FdBudget>,
        recorded: &Recorded,
    ) -> Result<Self, Gone> {
        let Recorded {
            pid,
            start_time,
            inode,
            alive_at,
        } = *recorded;
        let mut identity = Self {
            pid,
            start_time,
            alive_at_ns: monotonic_ns(),
            started_by: match start_time {
                Some(_) => None,
                None => started_by(table, alive_at),
            },
            inode,
            handle: Handle::Nothing,
        };
        if let Verdict::Gone {
            evidence,
            pid_reused,
        } = judge(&identity, None, table)
        {
            let exit = identity.wait_status(table).map(|status| Exit {
                status: ExitStatus::from_wait_status(status),
                from: Source::Restart,
            });
            return Err(Gone {
                evidence,
                pid_reused,
                exit,
            });
        }
        identity.complete(table);
        identity.promote(table, budget);
        Ok(identity)
    }

    /// Returns whether a process under this pid with this start time can be this one.
    pub(crate) fn may_have_started_at(&self, start_time: StartTime) -> bool {
        match (self.start_time, self.started_by) {
            (Some(own), _) => own == start_time,
            (None, Some(latest)) => start_time <= latest,
            (None, None) => true,
        }
    }

    /// Reads the start time if it could not be read before. A pid has one process at a time, so the
    /// process that has it now is ours if it started before a moment at which ours was alive.
    /// Returns whether it was read.
    pub(crate) fn complete(&mut self, table: &dyn ProcessTable) -> bool {
        if self.start_time.is_some() || self.started_by.is_none() {
            return false;
        }
        let stat = table.stat(self.pid).ok();
        self.start_time = stat
            .map(|stat| stat.start_time)
            .filter(|start_time| self.may_have_started_at(*start_time));
        self.start_time.is_some()
    }

    /// Opens a pidfd if there is none and one can be had now. Returns whether it did.
    pub(crate) fn promote(&mut self, table: &dyn ProcessTable, budget: &Arc<FdBudget>) -> bool {
        if matches!(self.handle, Handle::Pidfd { .. }) {
            return false;
        }
        let Some(slot) = budget.take() else {
            return false;
        };
        let Ok(pidfd) = table.pidfd_open(self.pid) else {
            return false;
        };
        if self.is_ours(table, pidfd.as_fd()) {
            self.inode = table.pidfd_inode(pidfd.as_fd());
            self.handle = Handle::Pidfd {
                fd: pidfd,
                _slot: slot,
            };
            return true;
        }
        false
    }

    /// Returns whether this pidfd is that of our process.
    fn is_ours(&self, table: &dyn ProcessTable, pidfd: BorrowedFd<'_>) -> bool {
        if let Handle::Stat { fd: stat, .. } = &self.handle {
            // Readable until our process is reaped, and until then no other process has its pid.
            return table.read_stat(stat.as_fd()).is_ok();
        }
        if self.inode.is_some() {
            return table.pidfd_inode(pidfd) == self.inode;
        }
        let same_start = table
            .stat(self.pid)
            .is_ok_and(|stat| Some(stat.start_time) == self.start_time);
        same_start && matches!(table.pidfd_exited(pidfd), Ok(false))
    }

    /// Returns the pidfd, if one is open.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.handle {
            Handle::Pidfd { fd: pidfd, .. } => Some(pidfd.as_fd()),
            Handle::Stat { .. } | Handle::Nothing => None,
        }
    }

    /// Returns what identifies the process.
    pub(crate) fn strength(&self) -> IdentityStrength {
        match (&self.handle, self.inode, self.start_time) {
            (Handle::Pidfd { .. }, _, _) => IdentityStrength::Pidfd,
            (Handle::Stat { .. }, _, _) => IdentityStrength::Stat,
            (Handle::Nothing, Some(_), _) => IdentityStrength::PidfdInode,
            (Handle::Nothing, None, Some(_)) => IdentityStrength::StartTime,
            (Handle::Nothing, None, None) => IdentityStrength::Pid,
        }
    }

    /// Returns the wait status of the process, which has ended, if the system still has it.
    pub(crate) fn wait_status(&self, table: &dyn ProcessTable) -> Option<u32> {
        table.wait_status(self.pid, self.start_time, self.pidfd())
    }
}

#[cfg(test)]
mod tests;
