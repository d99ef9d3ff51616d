//! The daemon. A stand-in until the HTTP server is there.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::values::{RegisterPolicy, SourceChoice};

/// What the daemon is told on its command line.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    pub socket: PathBuf,
    pub sources: SourceChoice,
    pub require: Vec<reaper_registry::Source>,
    pub sweep_interval: Duration,
    pub ttl: Duration,
    pub max_sessions: usize,
    pub max_sessions_per_uid: usize,
    pub register_policy: RegisterPolicy,
    pub strict_replace: bool,
    pub allow_uids: Vec<u32>,
}

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct StartupError {
    pub reason: String,
    pub remedy: String,
}

/// Runs until it is told to stop.
#[expect(clippy::unused_async, reason = "the real one waits")]
pub async fn run(options: DaemonOptions) -> Result<(), StartupError> {
    Err(StartupError {
        reason: format!(
            "the daemon for {} is not built yet",
            options.socket.display()
        ),
        remedy: "reaperd doctor".to_owned(),
    })
}
