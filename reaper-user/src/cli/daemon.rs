//! `reaperd daemon`: its options. The daemon itself is in [`crate::daemon`].

use std::path::PathBuf;
use std::time::Duration;

use reaper_registry::Source;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::values::{self, Age};
use crate::daemon::config::{DaemonOptions, RegisterPolicy};
use crate::engine::Sources;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Exit sources to use: auto, or a comma-separated list of netlink, ebpf, pidfd, sweep
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = values::sources)]
    sources: Sources,
    /// Refuse to start unless this source works; may be a comma-separated list
    #[arg(long, value_name = "SOURCE", value_delimiter = ',', value_parser = values::source)]
    require: Vec<Source>,
    /// How often to check every registered process, in case other sources missed its exit
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::duration)]
    sweep_interval: Duration,
    /// Maximum age of sessions registered without a ttl; never: until the process exits
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = values::age)]
    ttl: Age,
    /// Maximum age of any session, even if a longer ttl was requested [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_ttl: Option<Duration>,
    /// Maximum number of sessions
    #[arg(long, value_name = "N", default_value = "100000", value_parser = values::count)]
    max_sessions: usize,
    /// Maximum number of sessions per user
    #[arg(long, value_name = "N", default_value = "10000", value_parser = values::count)]
    max_sessions_per_uid: usize,
    /// Maximum size of all sessions in memory, such as 512MiB
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = values::size)]
    max_bytes: usize,
    /// Maximum size of the sessions of one user in memory
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    max_bytes_per_uid: usize,
    /// Maximum number of connections [default: as open files allow, at most 1024]
    #[arg(long, value_name = "N", value_parser = values::connections)]
    max_connections: Option<usize>,
    /// Maximum number of connections per user [default: a fair share]
    #[arg(long, value_name = "N", value_parser = values::count)]
    max_connections_per_uid: Option<usize>,
    /// Maximum number of event streams per user [default: a fair share]
    #[arg(long, value_name = "N", value_parser = values::count)]
    max_streams_per_uid: Option<usize>,
    /// How long clients may keep an idle connection; at least 1s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::keep_alive)]
    keep_alive: Duration,
    /// Which processes a client may register: self, same-uid or any
    #[arg(long, value_name = "POLICY", default_value = "same-uid")]
    register_policy: RegisterPolicy,
    /// Reject a registration under an existing session id, and a removal by id, unless it has that
    /// session's token
    #[arg(long)]
    strict_replace: bool,
    /// Also serve this user, by name or uid; may be a comma-separated list
    ///
    /// Every user can then reach the socket, and the daemon refuses those who are not listed. With
    /// --socket-group instead, the system keeps them out.
    #[arg(long, value_name = "USER", value_delimiter = ',', value_parser = values::user)]
    allow_uid: Vec<u32>,
    /// Also serve the members of this group, by name or gid; the socket gets mode 0660
    #[arg(long, value_name = "GROUP", value_parser = values::group)]
    socket_group: Option<u32>,
    /// Stop when the parent process, which must have this pid, exits
    #[arg(long, hide = true, value_name = "PID")]
    child_of: Option<u32>,
}

impl Arguments {
    pub(super) fn socket_group(&self) -> Option<u32> {
        self.socket_group
    }

    pub(super) async fn run(self, socket: PathBuf) -> Result<ExitCode, Failure> {
        if let Some(parent) = self.child_of {
            stop_with(parent)?;
        }
        let options = DaemonOptions {
            socket,
            sources: self.sources,
            require: self.require,
            sweep_interval: self.sweep_interval,
            ttl: self.ttl.into(),
            max_ttl: self.max_ttl,
            max_sessions: self.max_sessions,
            max_sessions_per_uid: self.max_sessions_per_uid,
            max_bytes: self.max_bytes,
            max_bytes_per_uid: self.max_bytes_per_uid,
            max_connections: self.max_connections,
            max_connections_per_uid: self.max_connections_per_uid,
            max_streams_per_uid: self.max_streams_per_uid,
            keep_alive: self.keep_alive,
            register_policy: self.register_policy,
            strict_replace: self.strict_replace,
            allow_uids: self.allow_uid,
            socket_group: self.socket_group,
        };
        match crate::daemon::run(options).await {
            Ok(()) => Ok(ExitCode::Success),
            Err(error) => Err(Failure::new(error.to_string(), error.remedy())),
        }
    }
}

/// Makes the kernel stop this daemon when the parent exits. A killed demo cannot stop it.
#[cfg(target_os = "linux")]
fn stop_with(parent: u32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from)?;
    // Checked afterwards, because the parent may have exited before the call.
    if getppid().is_none_or(|now| now.as_raw_pid().cast_unsigned() != parent) {
        return Err(Failure::new(
            "the parent process has exited",
            "reaperd daemon",
        ));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
fn stop_with(_parent: u32) -> Result<(), Failure> {
    Ok(())
}
