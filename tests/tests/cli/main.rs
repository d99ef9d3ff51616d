//! The commands as a user runs them: exit codes, what stands on which stream, and what is left.
#![expect(clippy::unwrap_used, reason = "steps of tests")]

mod refusals;
mod run;
mod running;

use std::process::{Command, Output, Stdio};

use reaper_tests::daemon::{TestDaemon, reaperd, sources_of_this_run};
use serde_json::Value;

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NO_DAEMON: i32 = 3;
const NO_SESSION: i32 = 4;

/// A daemon for commands to talk to, with the one source of events that nothing has to be allowed
/// for; or with what this run is about.
fn daemon() -> TestDaemon {
    match sources_of_this_run() {
        Some(flags) => TestDaemon::start(&flags),
        None => TestDaemon::start(&["--sources", "pidfd"]),
    }
}

/// A command of the daemon's user, without what this process's own surroundings would add.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(reaperd());
    command
        .args(arguments)
        .env_remove("REAPERD_SOCKET")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end, talking to this daemon.
fn run(daemon: &TestDaemon, arguments: &[&str]) -> CommandOutput {
    let mut command = command(arguments);
    surround(&mut command, daemon);
    CommandOutput::by(command.output().unwrap())
}

/// Has it find this daemon, and leave its token file in the daemon's folder.
fn surround(command: &mut Command, daemon: &TestDaemon) {
    let socket = daemon.socket();
    command
        .env("XDG_RUNTIME_DIR", socket.parent().unwrap())
        .env("REAPERD_SOCKET", socket);
}

/// What a command said, and with which code it ended.
#[derive(Debug)]
struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

impl CommandOutput {
    fn by(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It was done, and nothing was complained about.
    fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(DONE), ""), "{self:?}");
        self.out
    }

    /// It failed with this code and this sentence, and said what to try.
    fn failed(&self, code: i32, sentence: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "a failure is no result");
        assert!(self.err.contains(sentence), "{self:?}");
        assert!(self.err.contains("  try: "), "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}
