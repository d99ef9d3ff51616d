//! The daemon as root on the real kernel: each source alone, many deaths at once, a stopped daemon,
//! restricted environments, and secrets in its memory.
//!
//! Run it as root with `REAPER_REQUIRE=netlink,ebpf`, so that a missing source fails a test.
//! Otherwise a test prints what it lacks and passes.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; skip reasons are printed"
)]

mod access;
mod churn;
mod confined;
mod crowds;
mod deaths;
mod foreign_proc;
mod forged;
mod secrets;
mod squatted;
mod time_namespaces;

use reaper_tests::daemon::TestDaemon;

/// Starts a daemon with one source, or with `auto`. `None`, with the reason printed, if the source
/// does not work here and is not required.
fn start_with(source: &str, sweep_interval: &str) -> Option<TestDaemon> {
    let daemon = TestDaemon::start(&["--sources", source, "--sweep-interval", sweep_interval]);
    if source == "auto" || daemon.has_source(source) {
        return Some(daemon);
    }
    daemon.stop();
    None
}
