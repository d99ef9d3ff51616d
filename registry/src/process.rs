//! The process of a session: an opaque id, and a pid and start time for display.

use std::fmt;
use std::sync::OnceLock;

/// An opaque id of one particular process.
///
/// The caller assigns it and must never reuse it: two processes that had the same pid, even within one
/// clock tick, need different ids. The registry never uses a pid as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A valid process id of the operating system: 1..=[`Pid::MAX`].
///
/// It says nothing about whether the process exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(u32);

/// The error for a number that is not a pid on any supported system; carries that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a pid: it must be in 1..={max}", max = Pid::MAX)]
pub struct PidOutOfRange(pub i64);

impl Pid {
    /// The largest possible pid: [`PID_MAX_LIMIT`][1] of 64-bit Linux. The BSDs and macOS use smaller
    /// ones.
    ///
    /// [1]: https://elixir.bootlin.com/linux/v6.12/source/include/linux/threads.h
    pub const MAX: u32 = 4_194_304;

    /// Creates a pid from a number in 1..=[`Pid::MAX`].
    pub const fn new(raw: u32) -> Result<Self, PidOutOfRange> {
        if raw == 0 || raw > Self::MAX {
            return Err(PidOutOfRange(raw as i64));
        }
        Ok(Self(raw))
    }

    /// Returns the pid as the signed number that system calls take; always positive.
    pub const fn as_raw(self) -> i32 {
        self.0.cast_signed()
    }

    /// Returns the pid as an unsigned number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for Pid {
    type Error = PidOutOfRange;

    fn try_from(raw: i64) -> Result<Self, PidOutOfRange> {
        u32::try_from(raw)
            .map_err(|_out_of_u32| PidOutOfRange(raw))
            .and_then(Self::new)
    }
}

impl TryFrom<i32> for Pid {
    type Error = PidOutOfRange;

    fn try_from(raw: i32) -> Result<Self, PidOutOfRange> {
        Self::try_from(i64::from(raw))
    }
}

impl TryFrom<u32> for Pid {
    type Error = PidOutOfRange;

    fn try_from(raw: u32) -> Result<Self, PidOutOfRange> {
        Self::new(raw)
    }
}

impl From<Pid> for u32 {
    fn from(pid: Pid) -> Self {
        pid.get()
    }
}

impl From<Pid> for i32 {
    fn from(pid: Pid) -> Self {
        pid.as_raw()
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When a process started, in the unit of the system that reported it.
///
/// On Linux: clock ticks since boot, field 22 of `/proc/PID/stat` (see `proc_pid_stat(5)`). Only
/// comparable with values that the same observer read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StartTime(pub u64);

impl fmt::Display for StartTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The process of a session.
#[derive(Clone, Debug)]
pub struct Process {
    /// The caller's id of the process.
    pub id: ProcessId,
    /// Its pid, for display.
    pub pid: Pid,
    /// Another number by which the caller recognises the process, such as the inode of its pidfd.
    pub inode: Option<u64>,
    start_time: OnceLock<StartTime>,
}

impl Process {
    /// Creates the record of a process. The start time may be added later with
    /// [`Self::learn_start_time`].
    pub fn new(id: ProcessId, pid: Pid, start_time: Option<StartTime>) -> Self {
        Self {
            id,
            pid,
            inode: None,
            start_time: start_time.map_or_else(OnceLock::new, OnceLock::from),
        }
    }

    /// Sets [`Self::inode`].
    pub fn with_inode(mut self, inode: Option<u64>) -> Self {
        self.inode = inode;
        self
    }

    /// Returns the start time, if it is known.
    pub fn start_time(&self) -> Option<StartTime> {
        self.start_time.get().copied()
    }

    /// Sets the start time if none is known yet. Returns whether it was set; a start time never changes
    /// once it is known. Visible to everyone who shares the session.
    pub fn learn_start_time(&self, start_time: StartTime) -> bool {
        self.start_time.set(start_time).is_ok()
    }
}
