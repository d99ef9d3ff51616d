//! `reaperd run` with a real daemon: what the command gets, what it does not get, and what is left
//! behind.

mod late;
mod launches;
mod names;
mod token_files;
mod transparency;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reaper_registry::Token;
use reaper_tests::daemon::TestDaemon;
use reaper_tests::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};

use super::{CommandOutput, Launched, command, launch, reaperd};

/// A script that prints the token and the id of its session.
const PRINT_SESSION: &str = "cat \"$REAPERD_TOKEN_FILE\"; echo; echo \"$REAPERD_SESSION_ID\"";

/// A daemon, and a runtime folder for its clients.
struct Harness {
    daemon: TestDaemon,
    runtime_dir: tempfile::TempDir,
}

impl Harness {
    fn new() -> Self {
        let runtime_dir = tempfile::tempdir().unwrap();
        Self {
            daemon: launch().with_runtime_dir(runtime_dir.path()).start(),
            runtime_dir,
        }
    }

    /// `reaperd run` with these arguments.
    fn run(&self, arguments: &[&str]) -> Command {
        let mut run = command(&["run"]);
        run.args(arguments);
        self.set_environment(&mut run);
        run
    }

    /// Starts this shell in this folder. It prints its session and then sleeps.
    fn start_shell(&self, shell: &str, folder: &Path) -> Launched {
        let script = format!("{PRINT_SESSION}; exec sleep 600");
        let mut run = self.run(&["--", shell, "-c", &script]);
        Launched::start(run.current_dir(folder))
    }

    /// Sets the environment in which clients find this daemon.
    fn set_environment(&self, command: &mut Command) {
        command
            .env("REAPERD_SOCKET", self.daemon.socket())
            .env("XDG_RUNTIME_DIR", self.runtime_dir.path())
            .env("REAPERD", reaperd())
            .env_remove("CLAUDEMESH_IPC_TOKEN");
    }

    /// All token files in the runtime folder.
    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.runtime_dir.path().join("reaperd/tokens"));
        let files = files.into_iter().flatten();
        files.map(|file| file.unwrap().path()).collect()
    }

    /// Waits until no session and no token file is left, and stops the daemon.
    fn leaves_nothing(self) {
        eventually("no session is left", || self.daemon.list().is_empty());
        eventually("no token file is left", || self.files().is_empty());
        self.daemon.stop();
    }
}

/// Whether the token file belongs to this session, judging by its name.
fn is_of(file: &Path, session_id: &str) -> bool {
    let name = file.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.split_once('@'))
        .is_some_and(|(id, _process)| id == session_id)
}

impl Launched {
    /// Reads what [`PRINT_SESSION`] prints.
    fn session(&mut self) -> (Token, String) {
        let (token, id) = (self.line(), self.line());
        let token = Token::parse(&token).unwrap_or_else(|error| panic!("{error}: {token:?} {id}"));
        (token, id)
    }

    fn cue(&mut self) {
        let cues = self.child.stdin.as_mut().unwrap();
        cues.write_all(b"\n").unwrap();
    }

    fn kill(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }
}
