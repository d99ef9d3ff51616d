//! The daemon: its configuration, its start and end, the HTTP that it reads and the protocol that it serves.

pub(crate) mod api;
pub mod config;
pub(crate) mod harden;
pub(crate) mod http;
mod run;
pub(crate) mod runtime;
pub mod socket_path;
mod systemd;
pub(crate) mod token_files;

pub(crate) use run::run;
#[doc(hidden)]
pub use run::{StartupError, run_until};
