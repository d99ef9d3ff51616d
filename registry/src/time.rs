//! Time as it is passed in: this crate never reads a clock.

use std::time::Duration;

/// Nanoseconds since boot with suspend counted (`CLOCK_BOOTTIME`), so that a ceiling of 24 h is 24 h
/// of the owner's life and no step of the wall clock moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// The instant `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds after boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long `earlier` lies back; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The two clocks at one instant: one to decide with, one to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What ceilings are measured on.
    pub boot: BootTime,
    /// Milliseconds since 1970, for display alone.
    pub wall_ms: u64,
}

impl Moment {
    /// So much later on both clocks; at most the end of what they can show.
    pub(crate) fn after(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            boot: BootTime(self.boot.0.saturating_add(nanos)),
            wall_ms: self.wall_ms.saturating_add(millis),
        }
    }
}
