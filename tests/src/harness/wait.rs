//! Waiting for something that is expected to happen: by deadline, never for a fixed time.
#![expect(clippy::missing_panics_doc, reason = "these are assertions")]

use std::thread;
use std::time::Duration;

pub use reaperd::clock::Deadline;

/// Long enough for an emulated machine, and for one that is busy with other work.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Fails the test unless `holds` does so in time.
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(TIMEOUT, what, holds);
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
