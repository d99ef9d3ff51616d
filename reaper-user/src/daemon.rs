//! The daemon: its configuration, its start and end, the HTTP that it reads and the protocol that it serves.
#![expect(
    missing_docs,
    reason = "not public: tests reach some of it through the test kit"
)]

pub(crate) mod accounts;
pub(crate) mod api;
pub(crate) mod carried;
pub(crate) mod config;
pub(crate) mod descriptors;
pub(crate) mod handover;
pub(crate) mod harden;
pub(crate) mod http;
pub(crate) mod log;
#[cfg(target_os = "linux")]
pub(crate) mod memory_file;
pub(crate) mod metrics;
#[cfg(target_os = "linux")]
pub(crate) mod monitor;
pub(crate) mod own_files;
pub(crate) mod private_memory;
pub(crate) mod profile;
pub(crate) mod reload;
pub(crate) mod restart;
mod run;
pub(crate) mod runtime;
#[cfg(target_os = "linux")]
pub(crate) mod sandbox;
pub(crate) mod signals;
pub(crate) mod socket_path;
pub(crate) mod systemd;
pub(crate) mod tcp;
pub(crate) mod token_files;

pub(crate) use run::{Inherited, run};
#[doc(hidden)]
pub use run::{StartupError, run_until};
