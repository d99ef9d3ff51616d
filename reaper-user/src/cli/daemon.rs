//! `reaperd daemon`: its flags. What it does is in [`crate::daemon`].

use std::path::PathBuf;
use std::time::Duration;

use reaper_registry::Source;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::values::{self, Age, SourceChoice};
use crate::daemon::config::{DaemonOptions, RegisterPolicy};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The sources of exit events: auto, or a list of netlink, ebpf, pidfd, sweep
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = values::sources)]
    sources: SourceChoice,
    /// Refuse to start without this source
    #[arg(long, value_name = "SOURCE", value_delimiter = ',', value_parser = values::source)]
    require: Vec<Source>,
    /// How often every process is looked at, whatever the other sources say
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::duration)]
    sweep_interval: Duration,
    /// Sessions that ask for no ttl end at this age; never: they end with their process
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = values::age)]
    ttl: Age,
    /// The most that any session lives, whatever it asks for [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_ttl: Option<Duration>,
    /// The most sessions there may be
    #[arg(long, value_name = "N", default_value = "100000", value_parser = values::count)]
    max_sessions: usize,
    /// The most sessions one user may have
    #[arg(long, value_name = "N", default_value = "10000", value_parser = values::count)]
    max_sessions_per_uid: usize,
    /// Which processes a caller may register
    #[arg(long, value_name = "POLICY", default_value = "same-uid")]
    register_policy: RegisterPolicy,
    /// Replace a live session only for one who knows its token
    #[arg(long)]
    strict_replace: bool,
    /// Serve this user too
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    allow_uid: Vec<u32>,
    /// Stop when the process that started this one, which has this pid, ends
    #[arg(long, hide = true, value_name = "PID")]
    child_of: Option<u32>,
}

impl Arguments {
    pub(super) async fn run(self, socket: PathBuf) -> Result<ExitCode, Failure> {
        if let Some(parent) = self.child_of {
            die_with(parent)?;
        }
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

/// A killed demo cannot stop its private daemon any more; the kernel does it then.
#[cfg(target_os = "linux")]
fn die_with(parent: u32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from)?;
    // Asked after, because it may have ended before.
    if getppid().is_none_or(|now| now.as_raw_pid().cast_unsigned() != parent) {
        return Err(Failure::new(
            "the process that started this daemon is gone",
            "reaperd daemon",
        ));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
fn die_with(_parent: u32) -> Result<(), Failure> {
    Ok(())
}
