//! Waiting for something that is expected to happen: by deadline, never for a fixed time.
#![expect(clippy::missing_panics_doc, reason = "these are assertions")]

use std::thread;
use std::time::Duration;

use reaper_user::clock::monotonic_ns;

/// Long enough for an emulated machine, and for one that is busy with other work.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A point in time after which nobody waits any more.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    began_ns: u64,
    wait: Duration,
}

impl Deadline {
    pub fn after(wait: Duration) -> Self {
        Self {
            began_ns: monotonic_ns(),
            wait,
        }
    }

    /// What has passed since the deadline was set.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.began_ns))
    }

    pub fn left(&self) -> Duration {
        self.wait.saturating_sub(self.elapsed())
    }

    pub fn has_passed(&self) -> bool {
        self.left().is_zero()
    }
}

/// Fails the test unless `holds` does so in time.
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

/// As [`eventually`], with a time of the caller's. Answers how long it took.
pub fn within(wait: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let deadline = Deadline::after(wait);
    while !holds() {
        assert!(!deadline.has_passed(), "not within {wait:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
    deadline.elapsed()
}
