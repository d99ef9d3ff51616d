//! How a daemon is started for a test.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reaperd::client::Client;
use tempfile::TempDir;

use super::{Requests, TestDaemon, reaperd};
use crate::wait::TIMEOUT;

/// The flags of a run with `REAPER_SOURCES=sweep`: daemons whose test chooses no source then have the
/// only one that every system has. They sweep more often than by default, because the tests wait for
/// the sweep.
pub fn sources_of_this_run() -> Option<[&'static str; 4]> {
    let value = std::env::var("REAPER_SOURCES").ok()?;
    assert_eq!(value, "sweep", "REAPER_SOURCES can only be `sweep`");
    Some(["--sources", "sweep", "--sweep-interval", "100ms"])
}

/// How to start a daemon.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    prefix: Vec<String>,
    arguments: Vec<String>,
    owner: Option<u32>,
    runtime_dir: Option<PathBuf>,
    variables: Vec<(String, String)>,
}

impl Launch {
    /// A daemon with these flags.
    pub fn with(arguments: &[&str]) -> Self {
        Self {
            arguments: owned(arguments),
            ..Self::default()
        }
    }

    /// Without a monitor, where a test counts system calls of the daemon and the monitor has its own.
    pub fn one_process(mut self) -> Self {
        self.arguments.push("--no-monitor".to_owned());
        self
    }

    /// Starts it through this command, whose last arguments are the daemon's command line.
    pub fn through(mut self, prefix: &[impl AsRef<str>]) -> Self {
        self.prefix = owned(prefix);
        self
    }

    /// Gives the folder of its socket to this user.
    pub fn for_user(mut self, uid: u32) -> Self {
        self.owner = Some(uid);
        self
    }

    /// Sets the runtime folder of its user, where its clients have their token files.
    pub fn with_runtime_dir(mut self, folder: &Path) -> Self {
        self.runtime_dir = Some(folder.to_owned());
        self
    }

    /// Sets an environment variable. With `XDG_CONFIG_HOME` the daemon reads its configuration files.
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it, without waiting for it to serve.
    pub fn spawn(&self) -> TestDaemon {
        self.spawn_by(Command::spawn)
    }

    /// As [`Self::spawn`], but `start` starts the process: for example in a thread with filters that
    /// the daemon inherits. The test's own connections are not affected by them.
    pub fn spawn_by(&self, start: impl FnOnce(&mut Command) -> io::Result<Child>) -> TestDaemon {
        let folder = private_folder();
        if let Some(uid) = self.owner {
            chown(folder.path(), Some(uid), Some(uid)).unwrap();
        }
        let client = Client::new(folder.path().join("s.sock")).with_time_limit(TIMEOUT);
        let client = match self.owner {
            // The test may run as root, which trusts no user's daemon otherwise.
            Some(uid) => client.with_server_uid(uid),
            None => client,
        };
        TestDaemon {
            child: self.spawn_in(folder.path(), start),
            requests: Requests::by(client),
            folder,
        }
    }

    pub(super) fn spawn_in(
        &self,
        folder: &Path,
        start: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Child {
        let log = File::create(folder.join("log")).unwrap();
        self.spawn_logging_to(log, folder, start)
    }

    pub(super) fn spawn_logging_to(
        &self,
        log: File,
        folder: &Path,
        start: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Child {
        let socket = folder.join("s.sock");
        let mut command_line = self.prefix.clone();
        command_line.push(reaperd().to_str().unwrap().to_owned());
        command_line.extend(owned(&["daemon", "--socket", socket.to_str().unwrap()]));
        command_line.extend(self.arguments.iter().cloned());
        let has_files = self
            .variables
            .iter()
            .any(|(name, _)| name == "XDG_CONFIG_HOME");
        if !has_files && !self.arguments.iter().any(|flag| flag == "--config") {
            command_line.push("--no-config".to_owned());
        }
        let mut flags = command_line.iter();
        if !flags.any(|flag| flag.starts_with("--sources")) {
            command_line.extend(owned(sources_of_this_run().as_slice().as_flattened()));
        }
        let mut command = Command::new(&command_line[0]);
        command
            .args(&command_line[1..])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .env(
                "XDG_RUNTIME_DIR",
                self.runtime_dir.as_deref().unwrap_or(folder),
            );
        let options = std::env::vars_os().map(|(name, _)| name);
        for name in options.filter(|name| name.as_encoded_bytes().starts_with(b"REAPERD_")) {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        start(&mut command).unwrap_or_else(|error| panic!("{command_line:?}: {error}"))
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) -> TestDaemon {
        let mut daemon = self.spawn();
        daemon.serves();
        daemon
    }
}

/// A temporary folder that only this user can access.
pub fn private_folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("reaperd-test-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .unwrap()
}

fn owned(arguments: &[impl AsRef<str>]) -> Vec<String> {
    let owned = |argument: &_| AsRef::<str>::as_ref(argument).to_owned();
    arguments.iter().map(owned).collect()
}
