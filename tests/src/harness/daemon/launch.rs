//! How a daemon is started for a test.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reaperd::client::Client;

use super::{TestDaemon, reaperd, runtime};
use crate::wait::TIMEOUT;

/// The flags of a run with `REAPER_SOURCES=sweep`: whatever names no source itself is then tested
/// with the one path that every system has. It sweeps more often than users have it do, because the
/// tests wait for it.
pub fn sources_of_this_run() -> Option<[&'static str; 4]> {
    let word = std::env::var("REAPER_SOURCES").ok()?;
    assert_eq!(word, "sweep", "REAPER_SOURCES knows no other word");
    Some(["--sources", "sweep", "--sweep-interval", "100ms"])
}

/// How a daemon is to be started.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    prefix: Vec<String>,
    arguments: Vec<String>,
    owner: Option<u32>,
}

impl Launch {
    /// With these flags.
    pub fn with(arguments: &[&str]) -> Self {
        Self {
            arguments: owned(arguments),
            ..Self::default()
        }
    }

    /// Through this command, which takes a program with its arguments at the end of its own.
    pub fn through(mut self, prefix: &[&str]) -> Self {
        self.prefix = owned(prefix);
        self
    }

    /// In a folder of this user's.
    pub fn for_user(mut self, uid: u32) -> Self {
        self.owner = Some(uid);
        self
    }

    /// Starts it, without waiting for it to serve.
    pub fn spawn(&self) -> TestDaemon {
        self.spawn_by(Command::spawn)
    }

    /// As [`Self::spawn`], by a way of the caller's own: from a thread whose filters the daemon is
    /// to inherit. What speaks to the daemon later has none of that thread's.
    pub fn spawn_by(&self, start: impl FnOnce(&mut Command) -> io::Result<Child>) -> TestDaemon {
        let folder = tempfile::Builder::new()
            .prefix("reaperd-test-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .unwrap();
        if let Some(uid) = self.owner {
            chown(folder.path(), Some(uid), Some(uid)).unwrap();
        }
        let socket = folder.path().join("s.sock");
        TestDaemon {
            child: self.spawn_in(folder.path(), start),
            client: Client::new(&socket).with_time_limit(TIMEOUT),
            runtime: runtime(),
            folder,
        }
    }

    pub(super) fn spawn_in(
        &self,
        folder: &Path,
        start: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Child {
        let log = File::create(folder.join("log")).unwrap();
        let socket = folder.join("s.sock");
        let mut words = self.prefix.clone();
        words.push(reaperd().to_str().unwrap().to_owned());
        words.extend(owned(&["daemon", "--socket", socket.to_str().unwrap()]));
        words.extend(self.arguments.iter().cloned());
        if !words.iter().any(|word| word.starts_with("--sources")) {
            words.extend(
                sources_of_this_run()
                    .iter()
                    .flatten()
                    .map(|&word| word.to_owned()),
            );
        }
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_remove("REAPERD_SOCKET")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        start(&mut command).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) -> TestDaemon {
        let mut daemon = self.spawn();
        daemon.serves();
        daemon
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
