//! Faults of the environment, injected into the daemon as it is shipped, without any test support
//! inside it. What each source must do on a sound system is left to the other suites.
//!
//! A bounded run takes less than a minute; `REAPER_TEST_SCALE=full` tries everything and takes
//! about an hour. A test that lacks root, a program or a dedicated machine prints that and passes.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; cases and skip reasons are printed"
)]

mod descriptors;
mod injection;
mod lasting;
mod machine;
mod overrun;
mod proc;
mod restart;
mod scenario;
mod states;
mod stopped;
mod system_calls;
mod table;

use reaper_tests::scale::scaled;

/// How many cases are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// As many as fit into an ordinary run of all tests.
    Bounded,
    Whole,
}

fn extent() -> Extent {
    scaled(Extent::Whole, Extent::Bounded)
}
