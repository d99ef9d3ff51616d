//! Tests of the registry: a model, the rules of its origin, and the ways its parts could betray it.

mod hooks;
mod regressions;
mod support;
