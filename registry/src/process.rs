//! The process behind a session, as far as the registry may know it: a name tag, never a handle.

use std::fmt;
use std::sync::OnceLock;

/// One particular process, minted by whoever holds its identity. Two processes that had the same
/// pid, even within one clock tick, have different ids; a bare pid is never a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// A process number that the kernel could hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(u32);

/// The number is no pid on any supported system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a pid: it must be in 1..={max}", max = Pid::MAX)]
pub struct PidOutOfRange(pub i64);

impl Pid {
    /// The kernel's own ceiling (`PID_MAX_LIMIT` on 64-bit Linux; the BSDs and macOS stay below).
    pub const MAX: u32 = 4_194_304;

    /// Accepts 1..=[`Pid::MAX`].
    pub const fn new(raw: u32) -> Result<Self, PidOutOfRange> {
        if raw == 0 || raw > Self::MAX {
            return Err(PidOutOfRange(raw as i64));
        }
        Ok(Self(raw))
    }

    /// The number as the kernel's interfaces take it.
    pub const fn as_raw(self) -> i32 {
        self.0.cast_signed()
    }

    /// The number.
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

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When a process started, in the unit of the system that reported it (Linux: clock ticks since
/// boot, field 22 of `/proc/PID/stat`). Only ever compared with a value read by the same observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StartTime(pub u64);

impl fmt::Display for StartTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The process a session names.
#[derive(Debug)]
pub struct Process {
    /// Which process this is.
    pub id: ProcessId,
    /// The number it runs under, for show.
    pub pid: Pid,
    start_time: OnceLock<StartTime>,
}

impl Process {
    /// A process whose start time may be absent now and learnt later.
    pub fn new(id: ProcessId, pid: Pid, start_time: Option<StartTime>) -> Self {
        Self {
            id,
            pid,
            start_time: start_time.map_or_else(OnceLock::new, OnceLock::from),
        }
    }

    /// When it started, where that is known.
    pub fn start_time(&self) -> Option<StartTime> {
        self.start_time.get().copied()
    }

    /// Takes a start time that arrived after registration; the first one stays. Answers whether this
    /// one was taken.
    pub fn learn_start_time(&self, start_time: StartTime) -> bool {
        self.start_time.set(start_time).is_ok()
    }
}
