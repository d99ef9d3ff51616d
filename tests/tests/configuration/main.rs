//! The configuration of the daemon from files, environment and flags, its reload, and its signals.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "steps of tests")]

mod faults;
mod pages;
mod reload;
mod signals;
mod users;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use reaper_tests::daemon::{Launch, TestDaemon, private_folder, reaperd};
use reaper_tests::wait::eventually;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// Exit code of an invalid configuration.
const INVALID: i32 = 78;
/// A user without an account.
const ALICE: u32 = 2_001;

/// Runs `reaperd` without this process's own configuration, and with these variables.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(reaperd());
    command.args(arguments).stdin(Stdio::null());
    let own = std::env::vars_os().map(|(name, _)| name);
    for name in own.filter(|name| name.as_encoded_bytes().starts_with(b"REAPERD_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG");
    command.envs(variables.iter().copied()).output().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A configuration file in a folder of its own.
struct ConfigFile {
    path: PathBuf,
    _folder: TempDir,
}

impl ConfigFile {
    fn with(text: &str) -> Self {
        let folder = private_folder();
        let file = Self {
            path: folder.path().join("reaperd.toml"),
            _folder: folder,
        };
        file.write(text);
        file
    }

    /// Replaces the file, as editors do.
    fn write(&self, text: &str) {
        let new = self.path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// A daemon with a configuration file.
struct Configured {
    daemon: TestDaemon,
    file: ConfigFile,
}

impl Configured {
    fn start(text: &str, flags: &[&str]) -> Self {
        Self::by(text, flags, |launch| launch)
    }

    fn by(text: &str, flags: &[&str], launch: impl FnOnce(Launch) -> Launch) -> Self {
        let file = ConfigFile::with(text);
        let flags = [&["--config", file.path()], flags].concat();
        let daemon = launch(Launch::with(&flags)).start();
        Self { daemon, file }
    }

    /// Replaces the file, sends SIGHUP, and waits until the daemon has read it.
    fn reload(&self, text: &str) {
        let before = self.reloads();
        self.file.write(text);
        self.daemon.signal(Signal::HUP);
        eventually("the configuration is read again", || {
            self.reloads() > before
        });
    }

    fn reloads(&self) -> usize {
        let log = self.daemon.log();
        log.matches("configuration reloaded").count() + log.matches("stays as it is").count()
    }

    fn health(&self) -> Value {
        let health: Value = self.daemon.get("/v1/health").unwrap();
        health["config"].clone()
    }
}

/// The repository's file with this path.
fn page(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap()
}
