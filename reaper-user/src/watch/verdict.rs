//! The one function that decides whether a process is gone. No other code does.
//!
//! It uses the strongest identity there is. A result that does not prove death leaves the process
//! alive or in doubt, and doubt keeps the session: a dead session that is kept is removed by the
//! next sweep, a live session that is removed is lost for good.
//!
//! # Every death is confirmed
//!
//! * **A readable pidfd** is confirmed independently. Either the kernel finds no task for it any
//!   more (`ESRCH` for signal 0 sent through it), or the record in `/proc`, which is the process's
//!   own until it is reaped, shows no live thread. Since Linux commit 0fb482728ba1 (6.15, in 6.12
//!   by backport), `pidfd_poll` in [`fs/pidfs.c`] calls `delay_group_leader` for the task that led
//!   the group when the poll began. A worker's exec (`de_thread` in [`fs/exec.c`]) replaces that
//!   task, and a poll in between reports a live process as readable: 1 to 3 times in 100,000 such
//!   execs. The next poll finds the new leader. Where no record can be read, two further polls must
//!   agree; each of them would have to meet another exec.
//! * **A record, a free pid, another inode or start time** must be seen twice. None of them was
//!   wrong in 2.8 million checks of processes whose workers executed programs: `exchange_tids` in
//!   [`kernel/pid.c`] swaps the tasks of two pids without a moment at which one has none, the
//!   thread count of a record is read under the lock that is taken to release the old leader, and
//!   the new leader gets the start time of the old one before it gets its pid.
//! * **That every thread ended**, in a group with more than one, is read from two listings of the
//!   threads with the kernel's count in between ([`ProcessTable::every_thread_ended`]). A thread
//!   that is being released (state X) does not count as ended there: it may be the main thread that
//!   a worker's exec has just replaced, under the id of the worker. Neither does a record with
//!   another id than the path it was read from, nor an empty listing. Each of the three made 0.2
//!   to 6 of a million execs look like an end.
//! * **The probe's report** ([`GroupDead`]) is an event: the kernel counts the live threads of the
//!   group (`signal->live`) and never raises that count again.
//!
//! # When a process is dead
//!
//! A process is dead when none of its threads will ever run code of its program again: each is a
//! zombie or released (states Z and X), or is exiting and has given up its memory. It does not
//! matter whether a parent or a tracer has reaped it. So the killed init of a pid namespace is dead
//! although it still waits until every process of its namespace is reaped (`zap_pid_ns_processes`
//! in [`kernel/pid_namespace.c`]), which a tracer can delay. The probe reports all of these at
//! once. Where the kernel wakes no other source, the sweep finds them.
//!
//! [`fs/pidfs.c`]: https://elixir.bootlin.com/linux/v6.15/source/fs/pidfs.c
//! [`fs/exec.c`]: https://elixir.bootlin.com/linux/v6.15/source/fs/exec.c
//! [`kernel/pid.c`]: https://elixir.bootlin.com/linux/v6.15/source/kernel/pid.c
//! [`kernel/pid_namespace.c`]: https://elixir.bootlin.com/linux/v6.15/source/kernel/pid_namespace.c

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use reaper_registry::{Evidence, Pid, StartTime};

use crate::sys::process_table::{ProcStat, ProcessTable, is_no_such_process};
use crate::watch::identity::{Handle, Identity};

/// Further polls that must agree with the first one where the record of a process cannot be read.
const FURTHER_POLLS: usize = 2;

/// The state of a process.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Every thread of it has ended. `pid_reused`: another process has its pid by now.
    Gone {
        evidence: Evidence,
        pid_reused: bool,
    },
    /// Some thread of it is alive.
    Alive,
    /// Neither could be found out.
    Unknown(Doubt),
}

/// Why the state of a process is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Doubt {
    /// The pid is in use and its entry cannot be seen: a restricted `/proc`.
    #[error("the process table hides the entry")]
    Hidden,
    /// The check itself failed.
    #[error("the check failed: {0}")]
    CheckFailed(#[from] io::Error),
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

/// The kernel's report that every thread of the process with this start time is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupDead {
    pub start_time: StartTime,
    /// When the last thread ended, on `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

impl GroupDead {
    /// Returns whether the report is about this process. The start time alone would also fit a
    /// predecessor in the same tick, but that one had ended before this one was pinned.
    fn is_about(self, identity: &Identity) -> bool {
        Some(self.start_time) == identity.start_time && self.at_ns >= identity.alive_at_ns
    }
}

/// Judges the process of this identity. A `group_dead` report about it needs no check, and none
/// would help: since 6.16 the report comes before the memory is torn down, and for milliseconds the
/// process still looks alive.
pub(crate) fn judge(
    identity: &Identity,
    group_dead: Option<GroupDead>,
    table: &dyn ProcessTable,
) -> Verdict {
    if group_dead.is_some_and(|report| report.is_about(identity)) {
        return Verdict::gone(Evidence::GroupDead);
    }
    match &identity.handle {
        Handle::Pidfd { fd: pidfd, .. } => judge_by_pidfd(identity, pidfd.as_fd(), table),
        Handle::Stat { fd: stat, .. } => twice(|| match table.read_stat(stat.as_fd()) {
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

/// Judges a process through its pidfd.
pub(crate) fn judge_by_pidfd(
    identity: &Identity,
    pidfd: BorrowedFd<'_>,
    table: &dyn ProcessTable,
) -> Verdict {
    judge_by_poll(identity, pidfd, table.pidfd_exited(pidfd), table)
}

/// Judges a process through its pidfd, which has just been polled.
pub(crate) fn judge_by_poll(
    identity: &Identity,
    pidfd: BorrowedFd<'_>,
    readable: io::Result<bool>,
    table: &dyn ProcessTable,
) -> Verdict {
    match readable {
        Ok(true) => confirm_readable(identity, pidfd, table),
        Ok(false) if has_ended_unread(identity, pidfd, table) => Verdict::gone(Evidence::Stat),
        Ok(false) => Verdict::Alive,
        Err(error) => Verdict::Unknown(error.into()),
    }
}

/// Returns whether a process has ended although its pidfd is not readable: its dead threads wait
/// for a tracer, or it is the init of a pid namespace and waits for others. It is not reaped, so
/// the pid is still its own.
fn has_ended_unread(identity: &Identity, pidfd: BorrowedFd<'_>, table: &dyn ProcessTable) -> bool {
    matches!(table.main_thread_ended(identity.pid, pidfd), Ok(true))
        && matches!(table.every_thread_ended(identity.pid), Ok(true))
}

/// Confirms the end of a process whose pidfd was readable once.
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
        // A worker's exec keeps the start time. So the process is reaped, though the signal did not
        // show it.
        Ok(stat) if !identity.may_have_started_at(stat.start_time) => {
            return Verdict::reused(Evidence::Pidfd);
        }
        // Its record, or that of a successor of the same tick: then the next check sees that it is
        // reaped.
        Ok(stat) => has_ended(pid, stat, table),
        Err(_) => (0..FURTHER_POLLS).all(|_| matches!(table.pidfd_exited(pidfd), Ok(true))),
    };
    if has_ended {
        Verdict::gone(Evidence::Pidfd)
    } else {
        Verdict::Alive
    }
}

/// Repeats a check that finds the process gone: both must.
fn twice(check: impl Fn() -> Verdict) -> Verdict {
    match check() {
        gone @ Verdict::Gone { .. } => match check() {
            Verdict::Gone { .. } => gone,
            not_gone => not_gone,
        },
        not_gone => not_gone,
    }
}

fn by_stat(identity: &Identity, stat: ProcStat, table: &dyn ProcessTable) -> Verdict {
    if !identity.may_have_started_at(stat.start_time) {
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

/// Opens a pidfd for one check: exact, without keeping a descriptor.
fn by_inode(identity: &Identity, inode: u64, table: &dyn ProcessTable) -> Verdict {
    match table.pidfd_open(identity.pid) {
        Ok(pidfd) => match table.pidfd_inode(pidfd.as_fd()) {
            Some(other) if other != inode => Verdict::reused(Evidence::Pidfd),
            Some(_) => judge_by_pidfd(identity, pidfd.as_fd(), table),
            // The inode cannot be read, which does not mean that it is another process's.
            None => by_pid(identity, table),
        },
        Err(error) if is_no_such_process(&error) => Verdict::gone(Evidence::Pidfd),
        Err(_) => by_pid(identity, table),
    }
}

/// The weakest mode: a successor that started in the same tick is taken for the process. If the
/// start time is unknown, the tick is that of the registration.
fn by_pid(identity: &Identity, table: &dyn ProcessTable) -> Verdict {
    match table.stat(identity.pid) {
        Ok(stat) => by_stat(identity, stat, table),
        // A restricted /proc shows no entry for unrelated processes, and an unmounted one shows
        // none at all. Only signal 0 proves that the pid is free.
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
