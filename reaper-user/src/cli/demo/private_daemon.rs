//! The demo's daemon: a child process with a temporary directory that is removed at the end.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{io, thread};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use crate::cli::failure::Failure;
use crate::client::{Client, SourceReport, SourcesReport, Version};
use crate::clock::Deadline;
use crate::daemon::config::options::OPTIONS;
use crate::engine::Sources;

/// How long the daemon and its sources may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the daemon may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How many lines of the log an error message includes.
const LOG_TAIL_LINES: usize = 5;

pub(super) struct PrivateDaemon {
    child: Child,
    dir: TempDir,
}

impl PrivateDaemon {
    /// Starts the daemon and waits until it responds.
    pub(super) async fn start(
        program: &Path,
        sources: &Sources,
        sweep: Duration,
    ) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new()
            .prefix("reaperd-demo-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let sources = match sources {
            Sources::Auto => vec!["auto"],
            Sources::Only(sources) => sources.iter().map(|source| source.name()).collect(),
        };
        let log = File::create(dir.path().join("log"))?;
        let mut command = Command::new(program);
        for option in OPTIONS {
            command.env_remove(option.variable());
        }
        let child = command
            .args(["daemon", "--no-config"])
            // The demo suspends its child, which must be the process that does the work.
            .args(cfg!(target_os = "linux").then_some("--no-monitor"))
            .arg("--socket")
            .arg(dir.path().join("s.sock"))
            .args(["--sources", &sources.join(",")])
            .args([
                "--sweep-interval",
                &humantime::format_duration(sweep).to_string(),
            ])
            .args(["--child-of", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C then reaches the demo alone, which stops the daemon in order.
            .process_group(0)
            .spawn()?;
        let mut daemon = Self { child, dir };
        daemon.wait_until_ready().await?;
        Ok(daemon)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let client = Client::new(self.socket());
        let deadline = Deadline::after(START_TIMEOUT);
        loop {
            let error = match client.get::<Version>("/v1/version").await {
                Ok(_version) => return Ok(()),
                Err(error) => error,
            };
            if self.child.try_wait()?.is_some() || deadline.has_passed() {
                let message = format!(
                    "the private daemon does not respond ({error}){}",
                    self.log_tail()
                );
                return Err(Failure::new(message, "reaperd daemon"));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns the state of the sources. Waits until none is starting, because some start later
    /// than the daemon responds.
    pub(super) async fn sources(&self) -> Result<SourcesReport, Failure> {
        let client = Client::new(self.socket());
        let deadline = Deadline::after(START_TIMEOUT);
        loop {
            let report: SourcesReport = client.get("/v1/sources").await?;
            if deadline.has_passed() || !report.sources.iter().any(SourceReport::is_starting) {
                return Ok(report);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The last lines of the log, for an error message.
    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        last.iter().flat_map(|line| ["\n  | ", line]).collect()
    }

    /// Stops the process with `SIGSTOP` and returns once it is stopped.
    pub(super) fn suspend(&self) -> io::Result<()> {
        kill_process(self.pid(), Signal::STOP)?;
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.pid()), options)?;
        if status.is_some_and(|status| status.stopped()) {
            return Ok(());
        }
        Err(io::Error::other("the private daemon exited unexpectedly"))
    }

    pub(super) fn resume(&self) -> io::Result<()> {
        Ok(kill_process(self.pid(), Signal::CONT)?)
    }

    /// Stops the daemon with `SIGTERM`, as a service manager does. The error describes what the
    /// daemon did wrong.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        kill_process(self.pid(), Signal::TERM).map_err(|error| error.to_string())?;
        let deadline = Deadline::after(STOP_TIMEOUT);
        let status = loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if deadline.has_passed() => {
                    return Err(format!("still running {STOP_TIMEOUT:?} after SIGTERM"));
                }
                None => thread::sleep(POLL_INTERVAL),
            }
        };
        if !status.success() {
            return Err(format!("exited with {status}{}", self.log_tail()));
        }
        if self.socket().exists() {
            return Err("did not remove its socket".to_owned());
        }
        Ok(())
    }

    /// The pid of the child. It cannot be reused before the child is reaped.
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        // An interrupted demo may leave the daemon suspended. SIGKILL works even then.
        if matches!(self.child.try_wait(), Ok(None)) && self.stop().is_err() {
            self.child.kill().unwrap_or_default();
            self.child.wait().map(drop).unwrap_or_default();
        }
    }
}
