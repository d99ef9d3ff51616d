//! Faults of the environment, put upon the daemon as it is shipped: nothing in it knows that it is
//! being tested. Which source may do what on a sound system is left to the other suites.
//!
//! As it stands this takes under a minute; `REAPER_TEST_SCALE=full` tries everything and takes an
//! hour or so. What needs root, a program or a machine of its own says so and passes without it.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; what was tried and why something was not is printed"
)]

mod descriptors;
mod injection;
mod lasting;
mod life;
mod machine;
mod overrun;
mod proc;
mod restart;
mod states;
mod stopped;
mod system_calls;
mod table;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::expect;
use reaper_tests::scale::scaled;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// What fits into an ordinary run of all tests.
    Bounded,
    Whole,
}

fn extent() -> Extent {
    scaled(Extent::Whole, Extent::Bounded)
}

/// Whether this source works for the daemon; a skip says why not, and fails where it is required.
fn works(daemon: &TestDaemon, source: &str) -> bool {
    let settled = daemon.settled(source);
    if let Err(reason) = &settled {
        expect::skip_without(source, reason);
    }
    settled.is_ok()
}
