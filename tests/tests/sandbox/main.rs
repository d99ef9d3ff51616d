//! The two processes of the daemon, monitor and worker, and what they can still do.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; figures are printed"
)]

mod confinement;
mod two_processes;
mod window;
