//! The one function that decides whether a process is gone. Nothing else in this program does.
//!
//! It looks through the strongest identity that is held. A reply of the system that does not prove
//! death leaves the process alive or in doubt, and doubt keeps the session: a ghost is gone at the next
//! sweep, a live session dropped by mistake is gone for good.
//!
//! # No process is dead by a single look
//!
//! * **A readable pidfd** is confirmed by an independent witness: the kernel finds no task for it any
//!   more (`ESRCH` for signal 0 sent through it), or the record in `/proc`, which is its own while it is
//!   not reaped, shows no live thread. Since Linux commit 0fb482728ba1 (6.15, in 6.12 by backport)
//!   `pidfd_poll` of `fs/pidfs.c` asks `delay_group_leader` about the task that led the group when the
//!   poll began. While a worker executes a program (`de_thread` of `fs/exec.c`), that task is replaced,
//!   and a poll in between says "readable" for a live process: 1 to 3 times in 100,000 such execs. The
//!   next poll finds the new leader. Where no record can be read, two further polls must agree, and each
//!   would have to meet an exec of its own.
//! * **A record, a free number, another inode or start time** must show in two looks. None of them was
//!   seen to be wrong in 2.8 million looks at processes whose workers executed programs: `exchange_tids`
//!   of `kernel/pid.c` swaps the tasks of two numbers without a moment at which one has none, a record's
//!   thread count is read under the lock that releasing the old leader takes, and the new leader gets the
//!   old one's start time before it gets its number.
//! * **Every thread ended**, though the group has more than one, is read from two listings of the
//!   threads with the kernel's count in between ([`ProcessTable::every_thread_ended`]). A thread that is being released
//!   (state X) does not count as ended there: it may be the main thread that a worker's exec has just
//!   replaced, under the worker's number. Nor does a record of another number than the name it was read
//!   by, nor an empty listing: each of the three made 1 to 10 of a million execs pass for an end.
//! * **The probe's report** ([`GroupDead`]) is an event, not a look: the kernel counts the group's live
//!   threads (`signal->live`) and never raises that count again.
//!
//! # When a process is dead
//!
//! When no thread of it will ever run code of its program again: each is a zombie or released (states Z
//! and X), or is exiting and has given up its memory. It does not matter whether a parent or a tracer
//! has collected it. So the killed init of a pid namespace is dead although it still waits for every
//! process of its namespace to be reaped (`zap_pid_ns_processes` of `kernel/pid_namespace.c`), which a
//! tracer can hold up. The probe reports all of these at once. Where the kernel wakes no other source, the
//! sweep finds them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use reaper_registry::{Evidence, Pid, StartTime};

use crate::sys::process_table::{ProcStat, ProcessTable, is_no_such_process};
use crate::watch::identity::{Handle, Identity};

/// Polls that must agree with the first one where the record of a process cannot be read.
const FURTHER_POLLS: usize = 2;

/// What became of a process.
#[derive(Debug)]
pub enum Verdict {
    /// Every thread of it has ended. `pid_reused`: its number is another process's by now.
    Gone {
        evidence: Evidence,
        pid_reused: bool,
    },
    /// Some thread of it runs.
    Alive,
    /// The system would not say.
    Unknown(Doubt),
}

/// Why nothing could be learnt.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// The number is in use and its entry does not show: a restricted `/proc`.
    #[error("the process table hides the entry")]
    Hidden,
    /// The system refused the look itself.
    #[error("looking failed: {0}")]
    LookFailed(#[from] io::Error),
}

impl Verdict {
    const fn gone(evidence: Evidence) -> Self {
        Self::Gone {
            evidence,
            pid_reused: false,
        }
    }

    const fn reused(evidence: Evidence) -> Self {
        Self::Gone {
            evidence,
            pid_reused: true,
        }
    }
}

/// The kernel's own word that every thread of the process that started then has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupDead {
    pub start_time: StartTime,
    /// When that was, on `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

impl GroupDead {
    /// Whether it is about this very process. The start time alone would also fit a predecessor
    /// that was forced into the same tick; but that one had ended before this one was pinned.
    fn is_about(self, identity: &Identity) -> bool {
        Some(self.start_time) == identity.start_time && self.at_ns >= identity.alive_at_ns
    }
}

/// Judges the process behind `identity`. `group_dead` is the kernel's own word for a dead group; if
/// it is about this process, no look is needed, and none would help: since 6.16 that word comes
/// before the memory is torn down, and for milliseconds the process still looks alive.
pub fn judge(
    identity: &Identity,
    group_dead: Option<GroupDead>,
    table: &dyn ProcessTable,
) -> Verdict {
    if group_dead.is_some_and(|word| word.is_about(identity)) {
        return Verdict::gone(Evidence::GroupDead);
    }
    match &identity.handle {
        Handle::Pidfd(pidfd, _) => judge_by_pidfd(identity, pidfd.as_fd(), table),
        Handle::Stat(stat, _) => twice(|| match table.read_stat(stat.as_fd()) {
            Ok(stat) => by_stat(identity, stat, table),
            Err(error) if is_no_such_process(&error) => Verdict::gone(Evidence::Stat),
            Err(error) => Verdict::Unknown(error.into()),
        }),
        Handle::Nothing => twice(|| match identity.inode {
            Some(inode) => by_inode(identity, inode, table),
            None => by_pid(identity, table),
        }),
    }
}

/// Judges the process of this identity through a pidfd of it.
pub(crate) fn judge_by_pidfd(
    identity: &Identity,
    pidfd: BorrowedFd<'_>,
    table: &dyn ProcessTable,
) -> Verdict {
    judge_by_poll(identity, pidfd, table.pidfd_exited(pidfd), table)
}

/// Judges the process of this identity through a pidfd of it that has just been polled.
pub(crate) fn judge_by_poll(
    identity: &Identity,
    pidfd: BorrowedFd<'_>,
    readable: io::Result<bool>,
    table: &dyn ProcessTable,
) -> Verdict {
    match readable {
        Ok(true) => confirm_readable(identity, pidfd, table),
        Ok(false) if has_ended_unread(identity, table) => Verdict::gone(Evidence::Stat),
        Ok(false) => Verdict::Alive,
        Err(error) => Verdict::Unknown(error.into()),
    }
}

/// Whether a process has ended whose pidfd is not readable: its dead threads wait for a tracer, or it is
/// the init of a pid namespace and waits for others. It has not been reaped, so the number is its own.
pub(crate) fn has_ended_unread(identity: &Identity, table: &dyn ProcessTable) -> bool {
    matches!(table.main_thread_ended(identity.pid), Ok(true))
        && matches!(table.every_thread_ended(identity.pid), Ok(true))
}

/// The second witness for a pidfd that was readable once.
fn confirm_readable(
    identity: &Identity,
    pidfd: BorrowedFd<'_>,
    table: &dyn ProcessTable,
) -> Verdict {
    if matches!(table.pidfd_reaped(pidfd), Ok(true)) {
        return Verdict::gone(Evidence::Pidfd);
    }
    let pid = identity.pid;
    let has_ended = match table.stat(pid) {
        // A worker's exec keeps the start time. So it has been reaped, though the system would not say so.
        Ok(stat) if !identity.may_be(stat.start_time) => {
            return Verdict::reused(Evidence::Pidfd);
        }
        // Its own record, or a successor's of the same tick: then the next look sees that it is reaped.
        Ok(stat) => has_ended(pid, stat, table),
        Err(_) => (0..FURTHER_POLLS).all(|_| matches!(table.pidfd_exited(pidfd), Ok(true))),
    };
    if has_ended {
        Verdict::gone(Evidence::Pidfd)
    } else {
        Verdict::Alive
    }
}

/// Takes a second look if the first one says "gone": both must.
fn twice(look: impl Fn() -> Verdict) -> Verdict {
    match look() {
        gone @ Verdict::Gone { .. } => match look() {
            Verdict::Gone { .. } => gone,
            not_gone => not_gone,
        },
        not_gone => not_gone,
    }
}

fn by_stat(identity: &Identity, stat: ProcStat, table: &dyn ProcessTable) -> Verdict {
    if !identity.may_be(stat.start_time) {
        Verdict::reused(Evidence::StartTime)
    } else if has_ended(identity.pid, stat, table) {
        Verdict::gone(Evidence::Stat)
    } else {
        Verdict::Alive
    }
}

/// Returns whether every thread of the process with this record has ended.
fn has_ended(pid: Pid, stat: ProcStat, table: &dyn ProcessTable) -> bool {
    stat.all_ended() || stat.main_thread_ended && matches!(table.every_thread_ended(pid), Ok(true))
}

/// A pidfd for the length of one look: exact, without a descriptor of its own.
fn by_inode(identity: &Identity, inode: u64, table: &dyn ProcessTable) -> Verdict {
    match table.pidfd_open(identity.pid) {
        Ok(pidfd) => match table.pidfd_inode(pidfd.as_fd()) {
            Some(other) if other != inode => Verdict::reused(Evidence::Pidfd),
            Some(_) => judge_by_pidfd(identity, pidfd.as_fd(), table),
            // The system would not say whose it is, which is not to say that it is another's.
            None => by_pid(identity, table),
        },
        Err(error) if is_no_such_process(&error) => Verdict::gone(Evidence::Pidfd),
        Err(_) => by_pid(identity, table),
    }
}

/// The declared weaker mode: a successor that started in the same tick passes for the process. Of a
/// process whose start time is unknown, the tick is that of its registration.
fn by_pid(identity: &Identity, table: &dyn ProcessTable) -> Verdict {
    match table.stat(identity.pid) {
        Ok(stat) => by_stat(identity, stat, table),
        // No entry is what a restricted /proc shows for unrelated processes, and what an unmounted one shows
        // for everybody. Only the kernel's word about the number itself proves that it is free.
        Err(error) => match table.pid_in_use(identity.pid) {
            Ok(false) => Verdict::gone(Evidence::Stat),
            Ok(true) if identity.start_time.is_none() => Verdict::Alive,
            Ok(true) if error.kind() == io::ErrorKind::NotFound => Verdict::Unknown(Doubt::Hidden),
            Ok(true) => Verdict::Unknown(error.into()),
            Err(error) => Verdict::Unknown(error.into()),
        },
    }
}

#[cfg(test)]
mod tests;
