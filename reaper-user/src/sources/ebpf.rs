//! Source: the exit probe.
pub mod btf;
