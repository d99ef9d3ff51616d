//! Waiting for something that is expected to happen: by deadline, never for a fixed time.
#![expect(clippy::missing_panics_doc, reason = "these are assertions")]

use std::thread;
use std::time::Duration;

pub use reaperd::testkit::clock::Deadline;

/// Long enough for an emulated machine, and for one that is busy with other work.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Fails the test unless `holds` returns true within [`TIMEOUT`].
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(TIMEOUT, what, holds);
}

/// Fails the test unless `holds` returns true within `limit`; returns how long it took.
pub fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let deadline = Deadline::after(limit);
    while !holds() {
        assert!(!deadline.has_passed(), "not within {limit:?}: {what}");
        thread::sleep(POLL_INTERVAL);
    }
    deadline.elapsed()
}

/// As [`eventually`], for a value.
pub fn eventually_some<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    some_within(TIMEOUT, what, find)
}

/// As [`within`], for a value.
pub fn some_within<T>(limit: Duration, what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    within(limit, what, || {
        found = find();
        found.is_some()
    });
    found.expect("`within` has returned")
}

/// Runs `check`, which contains assertions, again and again for `duration`.
pub fn throughout(duration: Duration, mut check: impl FnMut()) {
    let deadline = Deadline::after(duration);
    while !deadline.has_passed() {
        check();
    }
}
