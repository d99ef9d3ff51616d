//! The real daemon as a child process, with its socket in a private folder.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

mod events;
mod launch;
mod program;
mod requests;

use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use reaperd::client::Version;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub use events::{Arrived, Events, Removal};
pub use launch::{Launch, private_folder, sources_of_this_run};
pub use program::reaperd;
pub use requests::{Requests, runtime};

use crate::expect;
use crate::wait::{TIMEOUT, eventually, eventually_some, some_within, within};

/// `reaperd daemon` ends within two seconds of SIGTERM; an emulated machine is allowed five times that.
fn stops_within() -> Duration {
    let seconds = if expect::role().is_some() { 10 } else { 2 };
    Duration::from_secs(seconds)
}

/// A running daemon. Dropped, it is killed; a test that succeeds ends with [`Self::stop`].
pub struct TestDaemon {
    child: Child,
    requests: Requests,
    folder: TempDir,
}

impl Deref for TestDaemon {
    type Target = Requests;

    fn deref(&self) -> &Requests {
        &self.requests
    }
}

impl TestDaemon {
    /// Starts one with these flags and waits until it serves.
    pub fn start(arguments: &[&str]) -> Self {
        Launch::with(arguments).start()
    }

    /// The process that was started: the daemon's monitor, or the command it was started through, if
    /// that does not execute the daemon.
    pub fn started(&self) -> u32 {
        self.child.id()
    }

    /// The process that does the work: the daemon's worker, or the daemon itself with
    /// `--no-monitor`. It has no children, and each process above it has no other child.
    pub fn pid(&self) -> u32 {
        let below = |pid: &u32| children_of(*pid).first().map(|child| number_of(*child));
        let chain = std::iter::successors(Some(self.started()), below);
        chain.last().expect("the first is always there")
    }

    /// Waits until it serves.
    pub fn serves(&mut self) {
        within(TIMEOUT, "the daemon responds", || {
            let ended = self.ended();
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", self.log());
            self.get::<Version>("/v1/version").is_ok()
        });
    }

    /// Sends a signal to the process that was started.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends a signal to the process that does the work.
    pub fn signal_worker(&self, signal: Signal) {
        let worker = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process(worker, signal).unwrap();
    }

    /// Stops the worker, and returns when it has stopped.
    pub fn suspend(&self) {
        let stat = format!("/proc/{}/stat", self.pid());
        self.signal_worker(Signal::STOP);
        within(TIMEOUT, "the worker has stopped", || {
            let record = fs::read_to_string(&stat).unwrap();
            record.rsplit_once(") ").unwrap().1.starts_with('T')
        });
    }

    pub fn resume(&self) {
        self.signal_worker(Signal::CONT);
    }

    /// Kills it with SIGKILL and starts another one on the same socket.
    pub fn replaced_by(self, launch: &Launch) -> Self {
        self.replaced_through(launch, Command::spawn)
    }

    /// As above; `start` starts the process.
    pub fn replaced_through(
        mut self,
        launch: &Launch,
        start: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Self {
        self.kill();
        self.child = launch.spawn_in(self.folder.path(), start);
        self.serves();
        self
    }

    /// As above, after an orderly end.
    pub fn restarted_through(
        mut self,
        launch: &Launch,
        start: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Self {
        self.signal(Signal::TERM);
        assert!(self.wait().success(), "{}", self.log());
        self.child = launch.spawn_in(self.folder.path(), start);
        self.serves();
        self
    }

    /// Starts another one on the same socket while this one runs. It writes into the same log.
    pub fn spawn_beside(&self, launch: &Launch) -> Child {
        let folder = self.folder.path();
        let log = fs::File::options().append(true).open(folder.join("log"));
        launch.spawn_logging_to(log.unwrap(), folder, Command::spawn)
    }

    /// Replaces it by another one, and waits for its end. It must exit with success.
    pub fn hand_over_to(&mut self, launch: &Launch) {
        let successor = self.spawn_beside(launch);
        self.adopt(successor);
    }

    /// Waits for the end of this daemon, which the successor has replaced. It must exit with success.
    pub fn adopt(&mut self, successor: Child) {
        let mut former = std::mem::replace(&mut self.child, successor);
        let ended = some_within(TIMEOUT, "the former daemon ends", || {
            let ended = self.ended();
            assert!(ended.is_none(), "{ended:?}\n{}", self.log());
            former.try_wait().unwrap()
        });
        assert!(ended.success(), "{ended:?}\n{}", self.log());
    }

    /// Kills it with SIGKILL, the monitor first, which would replace the worker. Returns when both have
    /// ended.
    pub fn kill(&mut self) {
        let worker = format!("/proc/{}", self.pid());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        eventually("the worker has ended", || !Path::new(&worker).exists());
    }

    /// The status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end and returns the status.
    pub fn wait(&mut self) -> ExitStatus {
        eventually_some("the daemon ends", || self.ended())
    }

    /// Ends it as a service manager does. It must exit in time, with success, and leave no socket.
    pub fn stop(self) {
        self.signal(Signal::TERM);
        self.stopped();
    }

    /// As [`Self::stop`], for a daemon that has already got its signal.
    pub fn stopped(mut self) {
        let what = "the daemon ends after SIGTERM";
        let status = some_within(stops_within(), what, || self.ended());
        let log = self.log();
        assert!(status.success(), "{status:?}\n{log}");
        assert!(!self.socket().exists(), "it left its socket\n{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // A daemon behind another command is a child of that command.
        for pid in children_of(self.child.id()) {
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

fn number_of(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// The children of a process, from `/proc`.
pub fn children_of(pid: u32) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

/// The id under which [`Requests::register_all`] registers a process.
pub fn session_of(pid: u32) -> String {
    format!("pid-{pid}")
}

/// The findings of `doctor` about the daemon on this socket, run through this command.
pub fn doctor_through(prefix: &[&str], socket: &Path) -> Vec<Value> {
    let program = reaperd().to_str().unwrap();
    let command_line: Vec<_> = prefix.iter().copied().chain([program]).collect();
    let output = Command::new(command_line[0])
        .args(&command_line[1..])
        .args(["doctor", "--json", "--socket"])
        .arg(socket)
        .output()
        .unwrap_or_else(|error| panic!("{command_line:?}: {error}"));
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    report["findings"].as_array().unwrap().clone()
}

/// Whether this program is installed.
pub fn has_program(name: &str) -> bool {
    program(name).is_some()
}

/// The path of this program, if it is installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
}
