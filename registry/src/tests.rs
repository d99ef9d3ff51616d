//! Tests of the registry: against a simple model, against the rules of the claudemesh daemon, and with
//! hooks, readers and threads that misbehave.

mod claudemesh_rules;
mod history;
mod hooks;
mod lifetimes;
mod limits;
mod model;
mod properties;
mod regressions;
mod removals;
mod renewals;
mod secrets;
mod support;
mod threads;
mod totals;
