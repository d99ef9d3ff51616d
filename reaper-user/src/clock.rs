//! The clocks. Only this module reads them.

#[cfg(any(test, feature = "cli", feature = "testkit"))]
use std::time::Duration;

use reaper_registry::{BootTime, Moment};
use rustix::time::{ClockId, clock_gettime};

/// The clock for the age of a session. It counts time in suspend.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOT: ClockId = ClockId::Boottime;
/// The monotonic clock of macOS and the BSDs. On FreeBSD it counts time in suspend. On macOS it does not, so
/// a session does not age in suspend.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const BOOT: ClockId = ClockId::Monotonic;

/// Returns the time on both clocks of the registry.
pub fn now() -> Moment {
    Moment {
        boot: BootTime::from_nanos(nanos(BOOT)),
        wall_ms: nanos(ClockId::Realtime) / 1_000_000,
    }
}

/// Returns the nanoseconds on `CLOCK_MONOTONIC`, the clock of the kernel's exit events.
pub fn monotonic_ns() -> u64 {
    nanos(ClockId::Monotonic)
}

/// Returns how long threads of this process have run on a processor.
#[cfg(feature = "cli")]
pub(crate) fn cpu_time() -> Duration {
    Duration::from_nanos(nanos(ClockId::ProcessCPUTime))
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // None of these clocks is negative, except a wall clock set before 1970, which reads as 1970.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// A point in time at which a wait ends.
#[cfg(any(test, feature = "testkit"))]
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    began_ns: u64,
    wait: Duration,
}

#[cfg(any(test, feature = "testkit"))]
impl Deadline {
    /// Returns the deadline this long from now.
    pub fn after(wait: Duration) -> Self {
        Self {
            began_ns: monotonic_ns(),
            wait,
        }
    }

    /// Returns the time since the deadline was set.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.began_ns))
    }

    /// Returns the time until the deadline; zero after it.
    pub fn left(&self) -> Duration {
        self.wait.saturating_sub(self.elapsed())
    }

    /// Returns whether the deadline has passed.
    pub fn has_passed(&self) -> bool {
        self.left().is_zero()
    }
}
