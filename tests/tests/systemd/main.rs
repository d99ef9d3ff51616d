//! The units of the daemon under a real systemd as pid 1.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod inside;
mod journey;
mod kills;
mod lifecycle;
mod logging;
mod packages;
mod profile;
mod readers;
mod sessions;
mod units;
