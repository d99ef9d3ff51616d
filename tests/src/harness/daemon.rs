//! The real daemon as a child process, with its socket in a private folder.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

mod events;
mod launch;
mod program;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use reaper_registry::Token;
use reaperd::client::{Client, ClientError, Session, SourceReport, SourcesReport, Version};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use events::{Arrived, Events, Removal};
pub use launch::{Launch, private_folder, sources_of_this_run};
pub use program::reaperd;

use crate::expect::{self, State};
use crate::wait::{TIMEOUT, eventually, eventually_some, some_within, within};

/// `reaperd daemon` ends within two seconds of SIGTERM; an emulated machine is allowed five times that.
fn stops_within() -> Duration {
    let seconds = if expect::role().is_some() { 10 } else { 2 };
    Duration::from_secs(seconds)
}

/// A running daemon. Dropped, it is killed; a test that succeeds ends with [`Self::stop`].
pub struct TestDaemon {
    child: Child,
    client: Client,
    runtime: Runtime,
    folder: TempDir,
}

impl TestDaemon {
    /// Starts one with these flags and waits until it serves.
    pub fn start(arguments: &[&str]) -> Self {
        Launch::with(arguments).start()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("s.sock")
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

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits until it serves.
    pub fn serves(&mut self) {
        within(TIMEOUT, "the daemon responds", || {
            let ended = self.ended();
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", self.log());
            self.get::<Version>("/v1/version").is_ok()
        });
    }

    /// Reads a resource.
    pub fn get<T: serde::de::DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.runtime.block_on(self.client.get(target))
    }

    /// Reads a resource within this time.
    pub fn get_within<T: serde::de::DeserializeOwned>(
        &self,
        limit: Duration,
        target: &str,
    ) -> Result<T, ClientError> {
        let client = self.client.clone().with_time_limit(limit);
        self.runtime.block_on(client.get(target))
    }

    /// Registers a session with this id for the process.
    pub fn try_register(&self, id: &str, pid: u32) -> Result<Token, ClientError> {
        self.try_register_with(id, pid, Value::default())
    }

    /// As above, with further fields.
    pub fn try_register_with(
        &self,
        id: &str,
        pid: u32,
        mut details: Value,
    ) -> Result<Token, ClientError> {
        let token = Self::token_of(id, pid);
        details["token"] = token.reveal().as_str().into();
        details["session_id"] = id.into();
        details["mesh"] = "test".into();
        details["display_name"] = id.into();
        details["pid"] = pid.into();
        let _registered: Value = self
            .runtime
            .block_on(self.client.post("/v1/sessions/register", &details))?;
        Ok(token)
    }

    /// The token under which a session with this id is registered for this process.
    pub fn token_of(id: &str, pid: u32) -> Token {
        let mut bytes = [0; 32];
        // Any token will do that no other session has.
        let tail = &id.as_bytes()[id.len().saturating_sub(28)..];
        bytes[..tail.len()].copy_from_slice(tail);
        bytes[28..].copy_from_slice(&pid.to_ne_bytes());
        Token::from_bytes(bytes)
    }

    /// Removes the session of this token.
    pub fn remove(&self, token: &Token) -> Result<(), ClientError> {
        let removed = self.client.delete_as::<Value>(token, "/v1/sessions/me");
        self.runtime.block_on(removed).map(drop)
    }

    /// As above; a refusal fails the test.
    pub fn register(&self, id: &str, pid: u32) -> Token {
        self.try_register(id, pid)
            .unwrap_or_else(|error| panic!("register {id} for {pid}: {error}\n{}", self.log()))
    }

    /// Registers a session for each process, with the id of [`session_of`].
    pub fn register_all(&self, pids: impl IntoIterator<Item = u32>) {
        for pid in pids {
            self.register(&session_of(pid), pid);
        }
    }

    pub fn list(&self) -> Vec<Session> {
        self.runtime.block_on(self.client.sessions("")).unwrap()
    }

    /// The ids of the listed sessions.
    pub fn listed(&self) -> BTreeSet<String> {
        self.list().into_iter().map(|it| it.session_id).collect()
    }

    /// Whether this session is listed.
    pub fn lists(&self, id: &str) -> bool {
        self.listed().contains(id)
    }

    /// Whether this token resolves to a session; an error if the daemon does not respond.
    pub fn resolves(&self, token: &Token) -> Result<bool, ClientError> {
        let response = self
            .runtime
            .block_on(self.client.get_as::<Value>(token, "/v1/sessions/me"));
        match response {
            Ok(_) => Ok(true),
            Err(ClientError::Problem { status: 401, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// As above; an error fails the test.
    pub fn accepts(&self, token: &Token) -> bool {
        self.resolves(token)
            .unwrap_or_else(|error| panic!("resolve: {error}"))
    }

    pub fn sources(&self) -> SourcesReport {
        self.get("/v1/sources").unwrap()
    }

    /// The report on this source.
    pub fn source(&self, name: &str) -> SourceReport {
        let mut reports = self.sources().sources.into_iter();
        let report = reports.find(|report| report.source == name);
        report.unwrap_or_else(|| panic!("{name} is not reported"))
    }

    /// Waits until this source is reported to work, or to be down; returns the reason then.
    pub fn settled(&self, source: &str) -> Result<(), String> {
        eventually_some("the source has a final state", || {
            let report = self.source(source);
            match report.state.as_str() {
                _ if report.works() => Some(Ok(())),
                "down" => Some(Err(report.reason)),
                _ => None,
            }
        })
    }

    /// Whether this source works here. If not, prints that the test is skipped, or fails it if the
    /// source is required or expected.
    pub fn has_source(&self, source: &str) -> bool {
        let state = match self.settled(source) {
            Ok(()) => State::Up,
            Err(reason) => expect::source_state(false, &reason),
        };
        expect::available(source, &state)
    }

    /// Follows the events from here on.
    pub fn events(&self) -> Events {
        Events::open(&self.runtime, &self.client)
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

/// The id under which [`TestDaemon::register_all`] registers a process.
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

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
