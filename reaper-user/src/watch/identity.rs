//! What pins "this very process", strongest first: a held pidfd, the inode number of its pidfd, a
//! held stat descriptor, the number with the start time, the bare number.
//!
//! Pinning reads the handle first, then the facts, then looks at the handle again: whatever the
//! facts say was true of the process behind the handle, because it was still there afterwards.
//! Whether it was is the verdict's to say, as always.

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use reaper_registry::{Pid, StartTime};

use crate::clock::monotonic_ns;
use crate::sys::process_table::{ProcessTable, is_no_such_process};
use crate::watch::fd_budget::{FdBudget, Slot};
use crate::watch::verdict::{Verdict, judge, judge_by_poll};

/// The identity of one process.
#[derive(Debug)]
pub struct Identity {
    pub pid: Pid,
    pub start_time: Option<StartTime>,
    /// A time on `CLOCK_MONOTONIC` at which it lived: after it was found and before it was looked
    /// at again. Whatever ended earlier was somebody else.
    pub alive_at_ns: u64,
    /// What its start time could be at most, where that itself is unknown: that of a process which
    /// started when this one was known to live. A later one under the number is a successor.
    started_by: Option<StartTime>,
    /// What a pidfd opened anew would have to show.
    pub inode: Option<u64>,
    pub handle: Handle,
}

/// How strongly a process is identified, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What is held open for it.
#[derive(Debug)]
pub enum Handle {
    Pidfd(OwnedFd, Slot),
    Stat(OwnedFd, Slot),
    /// Nothing: no descriptor was to be had, or this system has none of the two.
    Nothing,
}

/// The process ended before it could be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process is gone")]
pub struct AlreadyGone;

/// Why nobody was pinned under a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPinned {
    #[error(transparent)]
    Gone(#[from] AlreadyGone),
    /// The number is that of a mere thread, which may end while its process lives on: name `process`.
    #[error("this is a thread of process {process}; name that one")]
    ThreadId { process: Pid },
}

impl Identity {
    /// Pins whoever has this number now, as strongly as the system and the budget allow.
    pub fn pin(
        table: &dyn ProcessTable,
        budget: &Arc<FdBudget>,
        pid: Pid,
    ) -> Result<Self, NotPinned> {
        match table.pidfd_open(pid) {
            Ok(pidfd) => Self::pin_by_pidfd(table, budget, pid, pidfd),
            Err(error)
                if is_no_such_process(&error) && matches!(table.pid_in_use(pid), Ok(false)) =>
            {
                Err(AlreadyGone.into())
            }
            // Absent (ENOSYS), forbidden (EPERM), out of descriptors (EMFILE), or EINVAL for a
            // number that is dying or names a mere thread (ENOENT on newer kernels, 6.18 for one): none
            // of these says "gone", and none tells a thread from a filter's or an old kernel's no.
            Err(_) => Self::pin_by_stat(table, budget, pid),
        }
    }

    fn pin_by_pidfd(
        table: &dyn ProcessTable,
        budget: &Arc<FdBudget>,
        pid: Pid,
        pidfd: OwnedFd,
    ) -> Result<Self, NotPinned> {
        let alive_at_ns = monotonic_ns();
        // Hidden entries (hidepid) are no loss here: the pidfd is the identity.
        let stat = table.stat(pid).ok();
        // Before the last look at the handle, which shows that it still lived then.
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
            identity.handle = Handle::Pidfd(pidfd, slot);
        }
        Ok(identity)
    }

    fn pin_by_stat(
        table: &dyn ProcessTable,
        budget: &Arc<FdBudget>,
        pid: Pid,
    ) -> Result<Self, NotPinned> {
        let opened = budget.take().map(|slot| (table.open_stat(pid), slot));
        // A thread has an entry as well. Asked while the entry is held and before it is read: if it
        // can be read afterwards, the answer was about the one that is held.
        match table.tgid_of(pid) {
            Ok(process) if process != pid => return Err(NotPinned::ThreadId { process }),
            // Where the system does not tell, somebody lives under the number all the same.
            Ok(_) | Err(_) => {}
        }
        let looked = match opened {
            Some((stat, slot)) => {
                stat.and_then(|stat| Ok((table.read_stat(stat.as_fd())?, Handle::Stat(stat, slot))))
            }
            None => table.stat(pid).map(|stat| (stat, Handle::Nothing)),
        };
        // After the look: an end between the two is left to others, but none of a predecessor's can
        // pass for this one's.
        let alive_at_ns = monotonic_ns();
        // Before the number is found to be in use.
        let started_by = looked.is_err().then(|| table.start_time_now()).flatten();
        let (stat, handle) = match looked {
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

    /// Whether a process under our number that started then can be ours.
    pub(crate) fn may_be(&self, start_time: StartTime) -> bool {
        match (self.start_time, self.started_by) {
            (Some(own), _) => own == start_time,
            (None, Some(latest)) => start_time <= latest,
            (None, None) => true,
        }
    }

    /// Reads the start time if it could not be read before: one number has one process at a time, so
    /// the process that has ours now is ours if it had started when ours was known to live. Returns
    /// whether it was read.
    pub(crate) fn complete(&mut self, table: &dyn ProcessTable) -> bool {
        if self.start_time.is_some() || self.started_by.is_none() {
            return false;
        }
        let stat = table.stat(self.pid).ok();
        self.start_time = stat
            .map(|stat| stat.start_time)
            .filter(|start_time| self.may_be(*start_time));
        self.start_time.is_some()
    }

    /// Takes a pidfd if none is held and one can be had now. Answers whether it did.
    pub fn promote(&mut self, table: &dyn ProcessTable, budget: &Arc<FdBudget>) -> bool {
        if matches!(self.handle, Handle::Pidfd(..)) {
            return false;
        }
        let Some(slot) = budget.take() else {
            return false;
        };
        let Ok(pidfd) = table.pidfd_open(self.pid) else {
            return false;
        };
        if self.is_behind(table, pidfd.as_fd()) {
            self.inode = table.pidfd_inode(pidfd.as_fd());
            self.handle = Handle::Pidfd(pidfd, slot);
            return true;
        }
        false
    }

    /// Whether this pidfd is our process's.
    fn is_behind(&self, table: &dyn ProcessTable, pidfd: BorrowedFd<'_>) -> bool {
        if let Handle::Stat(stat, _) = &self.handle {
            // Still ours while ours is not reaped, and then its number cannot be another's.
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

    /// The pidfd, if one is held.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.handle {
            Handle::Pidfd(pidfd, _) => Some(pidfd.as_fd()),
            Handle::Stat(..) | Handle::Nothing => None,
        }
    }

    /// Returns what identifies the process.
    pub fn strength(&self) -> IdentityStrength {
        match (&self.handle, self.inode, self.start_time) {
            (Handle::Pidfd(..), _, _) => IdentityStrength::Pidfd,
            (Handle::Stat(..), _, _) => IdentityStrength::Stat,
            (Handle::Nothing, Some(_), _) => IdentityStrength::PidfdInode,
            (Handle::Nothing, None, Some(_)) => IdentityStrength::StartTime,
            (Handle::Nothing, None, None) => IdentityStrength::Pid,
        }
    }

    /// The wait status word of the process, which has ended, where the system still keeps it.
    pub fn wait_status(&self, table: &dyn ProcessTable) -> Option<u32> {
        table.wait_status(self.pid, self.start_time, self.pidfd())
    }
}

#[cfg(test)]
mod tests;
