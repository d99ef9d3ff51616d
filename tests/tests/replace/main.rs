//! A daemon that takes the place of a running one (`reaperd daemon --replace`): no request fails, no
//! session is lost, and a successor that fails changes nothing.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod client;
mod connections;
mod failures;
mod killed;
mod load;
mod refusals;
mod sessions;

use reaper_tests::daemon::Launch;

/// A daemon that replaces the running one.
fn successor() -> Launch {
    Launch::with(&["--replace"])
}
