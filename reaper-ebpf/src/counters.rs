//! What the probe counts, per CPU. Strangers' exits are not counted: they must cost nothing.

/// An index into the counter map. Readers add the CPUs up; the sums only ever rise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Counter {
    /// The ring was full at a death. Whoever drains the ring reads this *afterwards* and, where it
    /// rose, scans the watch map. The probe counts before it tries the ring a second time, so either
    /// that second record or the rise is seen, and no death waits for the next one.
    RingFull = 0,
    /// A thread of the daemon itself ended: the proof that the probe is alive.
    Canary = 1,
    /// A watch entry was marked dead.
    Marked = 2,
    /// A watched tgid ended but with another start time than its entry says: the entry is stale. The
    /// wake-up rang with the start time that was seen; nothing was marked.
    Mismatched = 3,
}

/// Number of counters, which is the size of the counter map.
pub const COUNTERS: u32 = 4;

impl Counter {
    /// The index in the map.
    pub const fn index(self) -> u32 {
        self as u32
    }
}
