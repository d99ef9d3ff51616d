//! The daemon on the real kernel, with everything that root may use: each source by itself, storms,
//! stops and short rations.
//!
//! Meant to be run as root with `REAPER_REQUIRE=netlink,ebpf`, which forbids to skip. Elsewhere a
//! test says what it lacks and passes.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; the reason of a skip is printed"
)]

mod churn;
mod confined;
mod crowds;
mod deaths;
mod foreign_proc;
mod time_namespaces;

use reaper_tests::daemon::{TestDaemon, has_program};
use reaper_tests::expect::{self, State, skip};

/// Whether this source works for the daemon; a skip says why not, and fails where it is required.
fn works(daemon: &TestDaemon, source: &str) -> bool {
    let state = match daemon.settled(source) {
        Ok(()) => State::Up,
        Err(reason) => State::Down(reason),
    };
    expect::available(source, &state)
}

/// Whether we are root and have these programs.
fn root_with(programs: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("not root");
        return false;
    }
    let missing: Vec<_> = programs.iter().filter(|name| !has_program(name)).collect();
    if !missing.is_empty() {
        skip(format_args!("no {missing:?} here"));
    }
    missing.is_empty()
}
