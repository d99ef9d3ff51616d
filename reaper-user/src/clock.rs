//! The only place that reads a clock.

#[cfg(any(test, feature = "testkit"))]
use std::time::Duration;

use reaper_registry::{BootTime, Moment};
use rustix::time::{ClockId, clock_gettime};

/// Where suspend counts: what ceilings on a session's age are measured on.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOT: ClockId = ClockId::Boottime;
/// macOS and the BSDs: their monotonic clock. On FreeBSD it counts suspend, on macOS it does not,
/// so there a suspended day does not age a session.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const BOOT: ClockId = ClockId::Monotonic;

/// Both clocks of the registry.
pub fn now() -> Moment {
    Moment {
        boot: BootTime::from_nanos(nanos(BOOT)),
        wall_ms: nanos(ClockId::Realtime) / 1_000_000,
    }
}

/// Nanoseconds on `CLOCK_MONOTONIC`, the clock of the kernel's exit events.
pub fn monotonic_ns() -> u64 {
    nanos(ClockId::Monotonic)
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // None of these clocks is before its zero; a wall clock set before 1970 reads as 1970.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// A point in time after which nobody waits any more.
#[cfg(any(test, feature = "testkit"))]
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    began_ns: u64,
    wait: Duration,
}

#[cfg(any(test, feature = "testkit"))]
impl Deadline {
    /// So long from now.
    pub fn after(wait: Duration) -> Self {
        Self {
            began_ns: monotonic_ns(),
            wait,
        }
    }

    /// What has passed since it was set.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.began_ns))
    }

    /// What is left of it; zero once it has passed.
    pub fn left(&self) -> Duration {
        self.wait.saturating_sub(self.elapsed())
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.left().is_zero()
    }
}
