//! Points in time, as callers pass them in: this crate never reads a clock.

use std::time::Duration;

/// A time since boot that includes suspend, such as Linux's `CLOCK_BOOTTIME`; resolution 1 ns.
///
/// Lifetimes are measured on it: they include time in suspend and do not depend on steps of the wall
/// clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// Creates the time `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time that has passed since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One point in time on two clocks.
///
/// Pass a current value to every call. A value that is slightly old, because the caller waited for a
/// lock after reading the clock, is harmless: it can only delay an expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time since boot, which all decisions use.
    pub boot: BootTime,
    /// Milliseconds since 1970, for display only.
    pub wall_ms: u64,
}

impl Moment {
    /// Returns the time `duration` later on both clocks; saturates at the end of their ranges.
    pub(crate) fn after(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            boot: BootTime(self.boot.0.saturating_add(nanos)),
            wall_ms: self.wall_ms.saturating_add(millis),
        }
    }
}
