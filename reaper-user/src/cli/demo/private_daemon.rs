//! The demo's own daemon: a child process in a temporary folder that leaves nothing.

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
use crate::cli::values::SourceChoice;
use crate::client::{Client, SourceReport, SourcesReport, Version};
use crate::clock::monotonic_ns;
use crate::daemon::socket_path;

/// How long it may take to answer for the first time.
const START: Duration = Duration::from_secs(5);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(2);
/// Between two looks at something that is expected.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Of what the daemon said, what is shown if it fails.
const LAST_LINES: usize = 5;

pub(super) struct PrivateDaemon {
    child: Child,
    folder: TempDir,
}

impl PrivateDaemon {
    /// Starts it and waits until it answers.
    pub(super) async fn start(
        program: &Path,
        sources: &SourceChoice,
        sweep: Duration,
    ) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("reaperd-demo-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new(program)
            .arg("daemon")
            .arg("--socket")
            .arg(folder.path().join("s.sock"))
            .args(["--sources", &sources.to_string()])
            .args([
                "--sweep-interval",
                &humantime::format_duration(sweep).to_string(),
            ])
            .args(["--child-of", &std::process::id().to_string()])
            .env_remove(socket_path::VARIABLE)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at the terminal is for the demo, which then stops the daemon in order.
            .process_group(0)
            .spawn()?;
        let mut daemon = Self { child, folder };
        daemon.answers().await?;
        Ok(daemon)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("s.sock")
    }

    async fn answers(&mut self) -> Result<(), Failure> {
        let client = Client::new(self.socket());
        let start_ns = monotonic_ns();
        loop {
            let error = match client.get::<Version>("/v1/version").await {
                Ok(_version) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.child.try_wait()?;
            let waited = Duration::from_nanos(monotonic_ns() - start_ns);
            if ended.is_some() || waited > START {
                let message = format!(
                    "the private daemon does not answer ({error}){}",
                    self.said()
                );
                return Err(Failure::new(message, "reaperd daemon"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How its sources are, once each has said so; some take longer to start than the daemon does.
    pub(super) async fn sources(&self) -> Result<SourcesReport, Failure> {
        let client = Client::new(self.socket());
        let start_ns = monotonic_ns();
        loop {
            let report: SourcesReport = client.get("/v1/sources").await?;
            let waited = Duration::from_nanos(monotonic_ns() - start_ns);
            if waited > START || !report.sources.iter().any(SourceReport::is_starting) {
                return Ok(report);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The end of what it said, for a failure's message.
    fn said(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        last.iter().flat_map(|line| ["\n  | ", line]).collect()
    }

    /// Has it not run, and returns when it really does not.
    pub(super) fn suspend(&self) -> io::Result<()> {
        kill_process(self.pid(), Signal::STOP)?;
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.pid()), options)?;
        if status.is_some_and(|status| status.stopped()) {
            return Ok(());
        }
        Err(io::Error::other("the private daemon ended by itself"))
    }

    pub(super) fn resume(&self) -> io::Result<()> {
        Ok(kill_process(self.pid(), Signal::CONT)?)
    }

    /// Stops it as a service manager does; an error says what it did wrong then.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        kill_process(self.pid(), Signal::TERM).map_err(|error| error.to_string())?;
        let start_ns = monotonic_ns();
        let status = loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if monotonic_ns() - start_ns > super::nanos(STOP) => {
                    return Err(format!("still running {STOP:?} after it was told to stop"));
                }
                None => thread::sleep(LOOK_EVERY),
            }
        };
        if !status.success() {
            return Err(format!("ended with {status}{}", self.said()));
        }
        if self.socket().exists() {
            return Err("left its socket behind".to_owned());
        }
        Ok(())
    }

    /// Ours until it is waited for, so the number cannot be anybody else's.
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        // An interrupted play may leave it suspended, and then it can be killed all the same.
        if matches!(self.child.try_wait(), Ok(None)) && self.stop().is_err() {
            self.child.kill().unwrap_or_default();
            self.child.wait().map(drop).unwrap_or_default();
        }
    }
}
