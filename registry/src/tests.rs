//! Tests of the registry: a model, the rules of its origin, and the ways its parts could betray it.

mod history;
mod hooks;
mod lifetimes;
mod limits;
mod model;
mod origin;
mod properties;
mod regressions;
mod renewals;
mod secrets;
mod support;
mod threads;
