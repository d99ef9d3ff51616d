//! The one function that decides whether a process is gone. Nothing else in this program does.
//!
//! It looks through the strongest identity that is held. Every answer of the system that does not
//! prove death leaves the process alive or in doubt, and doubt keeps the session: a ghost is gone at
//! the next sweep, a live session dropped by mistake is gone for good.

use std::io;
use std::os::fd::AsFd as _;

use reaper_registry::{Evidence, StartTime};

use crate::identity::{Handle, Identity};
use crate::process_table::{Facts, ProcessTable, is_no_such_process};

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
        Handle::Pidfd(pidfd, _) => match table.pidfd_exited(pidfd.as_fd()) {
            Ok(true) => Verdict::gone(Evidence::Pidfd),
            Ok(false) => Verdict::Alive,
            Err(error) => Verdict::Unknown(error.into()),
        },
        Handle::Stat(stat, _) => match table.read_stat(stat.as_fd()) {
            Ok(facts) => by_facts(identity, facts),
            Err(error) if is_no_such_process(&error) => Verdict::gone(Evidence::Stat),
            Err(error) => Verdict::Unknown(error.into()),
        },
        Handle::Nothing => match identity.inode {
            Some(inode) => by_inode(identity, inode, table),
            None => by_number(identity, table),
        },
    }
}

fn by_facts(identity: &Identity, facts: Facts) -> Verdict {
    if identity
        .start_time
        .is_some_and(|start_time| start_time != facts.start_time)
    {
        Verdict::reused(Evidence::StartTime)
    } else if facts.all_ended() {
        Verdict::gone(Evidence::Stat)
    } else {
        Verdict::Alive
    }
}

/// A pidfd for the length of one look: exact, without a descriptor of its own.
fn by_inode(identity: &Identity, inode: u64, table: &dyn ProcessTable) -> Verdict {
    match table.pidfd_open(identity.pid) {
        Ok(pidfd) => match table.pidfd_inode(pidfd.as_fd()) {
            Some(other) if other != inode => Verdict::reused(Evidence::Pidfd),
            Some(_) => match table.pidfd_exited(pidfd.as_fd()) {
                Ok(true) => Verdict::gone(Evidence::Pidfd),
                Ok(false) => Verdict::Alive,
                Err(error) => Verdict::Unknown(error.into()),
            },
            // The system would not say whose it is, which is not to say that it is another's.
            None => by_number(identity, table),
        },
        Err(error) if is_no_such_process(&error) => Verdict::gone(Evidence::Pidfd),
        Err(_) => by_number(identity, table),
    }
}

/// The declared weaker mode: a successor that started in the same tick passes for the process.
fn by_number(identity: &Identity, table: &dyn ProcessTable) -> Verdict {
    match table.look(identity.pid) {
        Ok(facts) => by_facts(identity, facts),
        // No entry is what a restricted /proc shows for strangers, and what an unmounted one shows
        // for everybody. Only the kernel's word about the number itself proves that it is free.
        Err(error) => match table.number_in_use(identity.pid) {
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
