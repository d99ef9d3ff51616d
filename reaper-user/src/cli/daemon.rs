//! `reaperd daemon`: its options. The daemon itself is in [`crate::daemon`].

use std::path::PathBuf;
use std::time::Duration;

use reaper_registry::Source;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::values::{self, Age, SourceChoice};
use crate::daemon::config::{DaemonOptions, RegisterPolicy};
#[cfg(target_os = "linux")]
use crate::daemon::monitor;
use crate::daemon::{descriptors, harden, private_memory, runtime};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Exit sources to use: auto, or a comma-separated list of netlink, ebpf, pidfd, sweep
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = values::sources)]
    sources: SourceChoice,
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
    /// Which processes a client may register: self, same-uid or any
    #[arg(long, value_name = "POLICY", default_value = "same-uid")]
    register_policy: RegisterPolicy,
    /// Reject a registration under an existing session id unless it has that session's token
    #[arg(long)]
    strict_replace: bool,
    /// Also serve this user; may be a comma-separated list
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    allow_uid: Vec<u32>,
    /// Run one process, without a monitor
    ///
    /// By default the daemon is two processes: a monitor, which is the one that was started, and a
    /// worker, which does everything else. Without a monitor the worker is a new program, and for
    /// some milliseconds after its start another process of the same user can open its memory and
    /// keep it open.
    #[cfg(target_os = "linux")]
    #[arg(long)]
    no_monitor: bool,
    /// Stop when the parent process, which must have this pid, exits
    #[arg(long, hide = true, value_name = "PID")]
    child_of: Option<u32>,
}

impl Arguments {
    /// Runs the daemon and returns its exit code; in the monitor, that of the worker.
    pub(super) fn run(self, socket: PathBuf) -> Result<u8, Failure> {
        private_memory::refuse_tracer()?;
        if let Some(parent) = self.child_of {
            stop_with(parent)?;
        }
        #[cfg(target_os = "linux")]
        if !self.no_monitor
            && let Some(code) = monitor::split()
        {
            return Ok(code);
        }
        harden::keep_only_what_sources_need();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(descriptors::worker_threads());
        let runtime = runtime::build(builder).map_err(super::no_runtime)?;
        let ended = runtime.block_on(self.serve(socket));
        ended.map(ExitCode::number)
    }

    async fn serve(self, socket: PathBuf) -> Result<ExitCode, Failure> {
        let options = DaemonOptions {
            socket,
            sources: self.sources.into(),
            require: self.require,
            sweep_interval: self.sweep_interval,
            ttl: self.ttl.into(),
            max_ttl: self.max_ttl,
            max_sessions: self.max_sessions,
            max_sessions_per_uid: self.max_sessions_per_uid,
            register_policy: self.register_policy,
            strict_replace: self.strict_replace,
            allow_uids: self.allow_uid,
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
