//! Tests of the registry: against a simple model, against the rules of the claudemesh daemon, and with
//! hooks, readers and threads that misbehave.

mod claudemesh_rules;
mod history;
mod hooks;
mod journal;
mod lifetimes;
mod limits;
mod members;
mod model;
mod pause;
mod properties;
mod regressions;
mod removals;
mod renewals;
mod secrets;
mod support;
mod threads;
mod totals;
