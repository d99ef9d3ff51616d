//! The parts that tests are built from: a daemon to test, processes to register with it, and ways
//! to wait, to skip and to scale.

pub mod canary;
pub mod daemon;
pub mod expect;
#[cfg(target_os = "linux")]
pub mod fork_server;
pub mod history;
pub mod journey;
pub mod libtest;
#[cfg(target_os = "linux")]
pub mod machine;
#[cfg(target_os = "linux")]
pub mod memory_scan;
#[cfg(target_os = "linux")]
pub mod oracle;
mod processes;
pub mod raw_http;
#[cfg(target_os = "linux")]
pub mod scale;
pub mod sys;
#[cfg(target_os = "linux")]
pub mod terminal;
pub mod wait;

pub use processes::*;
