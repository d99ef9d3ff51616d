//! Restarts without loss: a worker that is killed is replaced, and sessions, tokens and the history go on.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "steps of tests")]

mod churn;
mod following;
mod replaced;
mod store;
