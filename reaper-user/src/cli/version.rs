//! `reaperd version`.

use serde_json::json;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{json_line, print_line};
use crate::client::{Client, Version};

/// For `reaperd version --help` and its manual page.
pub(super) const HELP: &str = "\
Output with --json:
  version   Version of this program
  target    The system that it was built for: operating system and architecture
  features  What it was built with
  socket    Path of the daemon's socket
  daemon    The running daemon: its version and that of its protocol; null if none responds

Exit status:
  0  Done, with or without a daemon

Environment:
  REAPERD_SOCKET  Path of the daemon's socket, with --json

Examples:
  reaperd version --json";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print one JSON object, with the running daemon
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let version = env!("CARGO_PKG_VERSION");
        let line = if self.json {
            let daemon: Option<Version> = client.get("/v1/version").await.ok();
            let daemon =
                daemon.map(|it| json!({ "version": it.daemon_version, "api": it.ipc_api }));
            let features = [("cli", true), ("ebpf", cfg!(feature = "ebpf"))];
            let features = features.into_iter().filter(|(_, is_on)| *is_on);
            json_line(&json!({
                "schema": 1,
                "version": version,
                "target": format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
                "features": features.map(|(name, _)| name).collect::<Vec<_>>(),
                "socket": client.socket().to_string_lossy(),
                "daemon": daemon,
            }))
        } else {
            format!("reaperd {version}")
        };
        print_line(&line)?;
        Ok(ExitCode::Success)
    }
}
