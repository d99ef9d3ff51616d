//! Restarts without loss: a worker that is killed is replaced, and sessions, tokens and the history go on.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; figures are printed"
)]

mod churn;
mod history;
mod replaced;
mod store;
