//! Why a session ended. A value of [`Removal`] cannot be made for a dead process without naming the
//! evidence and the source that led to it.

use std::fmt;
use std::time::Duration;

/// What first said "look at this process now".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The netlink proc connector.
    Netlink,
    /// The probe on `sched_process_exit`.
    Ebpf,
    /// A pidfd that became readable.
    Pidfd,
    /// The periodic look at every process.
    Sweep,
    /// The look that registration itself takes after storing.
    Register,
}

impl Source {
    /// The name in JSON, metrics and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netlink => "netlink",
            Self::Ebpf => "ebpf",
            Self::Pidfd => "pidfd",
            Self::Sweep => "sweep",
            Self::Register => "register",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What proved that the process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Evidence {
    /// Its own pidfd says so, or the kernel hands out another process for its number.
    Pidfd,
    /// Its process-table entry is gone or holds a finished single thread.
    Stat,
    /// Its number now belongs to a process with another start time.
    StartTime,
    /// The kernel reported the death of the whole group with the start time that is on record.
    GroupDead,
}

impl Evidence {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pidfd => "pidfd",
            Self::Stat => "stat",
            Self::StartTime => "start_time",
            Self::GroupDead => "group_dead",
        }
    }
}

/// How a process ended, as far as somebody saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this code.
    Code(u8),
    /// A signal ended it.
    Signal {
        /// Which one.
        signal: u8,
        /// Whether the kernel wrote a core dump.
        core: bool,
    },
}

impl ExitStatus {
    /// Decodes the wait status word that kernel interfaces carry.
    pub const fn from_wait_status(word: u32) -> Self {
        let [signal, code, ..] = word.to_le_bytes();
        match signal & 0x7f {
            0 => Self::Code(code),
            number => Self::Signal {
                signal: number,
                core: signal & 0x80 != 0,
            },
        }
    }
}

/// An exit status and who reported it. Advisory: threads and kernel versions disagree about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// Who said so.
    pub from: Source,
}

/// The death of a process, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// Whose hint led here.
    pub source: Source,
    /// What proved it.
    pub evidence: Evidence,
    /// Whether the proof was that its number had gone to another process.
    pub pid_reused: bool,
    /// Its status, where known; never waited for.
    pub exit: Option<Exit>,
    /// From the kernel's own time of the exit to the verdict, where a source gave one.
    pub detection: Option<Duration>,
}

/// Why a session left the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Its process is gone.
    Died(Death),
    /// It reached the age ceiling.
    Expired,
    /// A registration took its session id, or its token under another id.
    Replaced,
    /// Somebody who knows the token asked for it.
    Requested,
}

impl Removal {
    /// The name of the cause in JSON and metrics.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Died(Death {
                pid_reused: true, ..
            }) => "pid_reused",
            Self::Died(_) => "exited",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Requested => "requested",
        }
    }

    /// The death behind it, if one is.
    pub const fn death(&self) -> Option<&Death> {
        match self {
            Self::Died(death) => Some(death),
            Self::Expired | Self::Replaced | Self::Requested => None,
        }
    }
}
