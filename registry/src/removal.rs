//! Why a session was removed. A removal for a dead process always names the evidence and the source.

use std::fmt;
use std::time::Duration;

/// What caused the check that found a process dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Source {
    /// Linux's netlink process connector.
    Netlink,
    /// The eBPF probe on the tracepoint `sched_process_exit`.
    Ebpf,
    /// A pidfd that became readable.
    Pidfd,
    /// The periodic check of every process.
    Sweep,
    /// The check that follows each registration.
    Register,
    /// The check of every process after a restart.
    Restart,
}

impl Source {
    /// Returns the name in JSON, in metrics and on the command line. `Display` writes the same.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netlink => "netlink",
            Self::Ebpf => "ebpf",
            Self::Pidfd => "pidfd",
            Self::Sweep => "sweep",
            Self::Register => "register",
            Self::Restart => "restart",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What proved that a process is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Evidence {
    /// Its pidfd became readable, or opening its pid gives another process.
    Pidfd,
    /// Its entry in the process table is gone, or is a zombie without further threads.
    Stat,
    /// Its pid belongs to a process with another start time.
    StartTime,
    /// The kernel reported the end of its last thread, with the recorded start time.
    GroupDead,
}

impl Evidence {
    /// Returns the name in JSON. `Display` writes the same.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pidfd => "pidfd",
            Self::Stat => "stat",
            Self::StartTime => "start_time",
            Self::GroupDead => "group_dead",
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a process ended.
///
/// On Unix it converts from and to [`std::process::ExitStatus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// A signal terminated it.
    Signal {
        /// The signal's number.
        signal: u8,
        /// Whether the kernel wrote a core dump.
        core: bool,
    },
}

impl ExitStatus {
    /// Decodes a wait status as wait(2) and the kernel's exit events return it: the exit code in bits
    /// 8 to 15, the signal in bits 0 to 6, the core dump flag in bit 7. Other bits are ignored, so the
    /// status of a stopped process, which has not ended, decodes as signal 127.
    pub const fn from_wait_status(status: u32) -> Self {
        let [low, code, ..] = status.to_le_bytes();
        match low & 0x7f {
            0 => Self::Code(code),
            signal => Self::Signal {
                signal,
                core: low & 0x80 != 0,
            },
        }
    }

    /// Encodes the status as wait(2) returns it; the inverse of [`Self::from_wait_status`].
    pub const fn to_wait_status(self) -> u32 {
        match self {
            Self::Code(code) => (code as u32) << 8,
            Self::Signal { signal, core } => (signal & 0x7f) as u32 | (core as u32) << 7,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status: {code}"),
            Self::Signal {
                signal,
                core: false,
            } => write!(f, "signal: {signal}"),
            Self::Signal { signal, core: true } => write!(f, "signal: {signal} (core dumped)"),
        }
    }
}

#[cfg(unix)]
impl From<std::process::ExitStatus> for ExitStatus {
    fn from(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        Self::from_wait_status(status.into_raw().cast_unsigned())
    }
}

#[cfg(unix)]
impl From<ExitStatus> for std::process::ExitStatus {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        Self::from_raw(status.to_wait_status().cast_signed())
    }
}

/// An exit status and the source that reported it.
///
/// Advisory: for a process with threads, kernel versions and sources may report different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How the process ended.
    pub status: ExitStatus,
    /// The source that reported it.
    pub from: Source,
}

/// The proven death of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// The source of the hint that caused the check.
    pub source: Source,
    /// What proved the death.
    pub evidence: Evidence,
    /// Whether the proof was that its pid belongs to another process.
    pub pid_reused: bool,
    /// How it ended, if a source reported it in time; the removal does not wait for it.
    pub exit: Option<Exit>,
    /// The time from the exit, as the kernel measured it, to the verdict; `None` if no source reported
    /// the time of the exit.
    pub detection: Option<Duration>,
}

/// Why a session left the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Its process is gone.
    Died(Death),
    /// It exceeded its lifetime.
    Expired,
    /// Another registration took its session id, or its token under another id.
    Replaced,
    /// A request with its token, or the caller of the registry, removed it.
    Requested,
}

impl Removal {
    /// Returns the name of the cause in JSON and metrics: `exited`, `pid_reused`, `expired`, `replaced`
    /// or `requested`. `Display` writes the same.
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

    /// Returns the death of the process, if that is the cause.
    pub const fn death(&self) -> Option<&Death> {
        match self {
            Self::Died(death) => Some(death),
            Self::Expired | Self::Replaced | Self::Requested => None,
        }
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.cause())
    }
}
