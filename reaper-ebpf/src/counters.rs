//! The probe's counters, one set per CPU. Exits of unwatched processes are not counted, to keep them
//! cheap.

/// An index into the counter map.
///
/// A reader adds up the values of all CPUs; the sums never decrease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Counter {
    /// The ring buffer was full when a process died.
    ///
    /// The daemon reads this counter *after* it has drained the ring, and scans the watch map if the
    /// counter has increased. The probe counts before it tries the ring a second time, so the daemon sees
    /// either the second record or the increase, and no death waits for a later one.
    RingFull = 0,
    /// A thread of the daemon ended, which shows that the probe works.
    Canary = 1,
    /// The probe marked an entry of the watch map as dead.
    Marked = 2,
    /// A watched tgid ended with another start time than that of its entry: the entry is stale. The probe
    /// wrote a wake-up with the actual start time and did not mark the entry.
    Mismatched = 3,
}

/// The number of counters, and of entries in the counter map.
pub const COUNTERS: u32 = 4;

impl Counter {
    /// Returns the index in the counter map.
    pub const fn index(self) -> u32 {
        self as u32
    }
}
