//! The commands as a user runs them: exit codes, output streams, and what they leave behind.
#![expect(clippy::unwrap_used, reason = "steps of tests")]

#[cfg(target_os = "linux")]
mod exec;
#[cfg(target_os = "linux")]
mod following;
#[cfg(target_os = "linux")]
mod full_pipe;
mod interface;
mod journeys;
mod manual;
#[cfg(target_os = "linux")]
mod older;
mod picture;
#[cfg(target_os = "linux")]
mod progress;
mod readme;
mod refusals;
mod run;
mod running;
#[cfg(target_os = "linux")]
mod sessions;
mod status;
mod surroundings;
mod terminal;
#[cfg(target_os = "linux")]
mod top;
#[cfg(target_os = "linux")]
mod wait;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use reaper_tests::daemon::{Launch, TestDaemon, reaperd, sources_of_this_run};
use reaper_tests::wait::TIMEOUT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NO_DAEMON: i32 = 3;
const NO_SESSION: i32 = 4;
const NOT_PERMITTED: i32 = 5;

/// A daemon for the commands, with the one event source that needs no privileges, or with the
/// sources that this test run is for.
fn daemon() -> TestDaemon {
    launch().start()
}

fn launch() -> Launch {
    match sources_of_this_run() {
        Some(flags) => Launch::with(&flags),
        None => Launch::with(&["--sources", "pidfd"]),
    }
}

/// A command without the environment variables of this process that would change its behaviour.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(reaperd());
    command
        .args(arguments)
        .env_remove("REAPERD_SOCKET")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// Runs a command against this daemon to its end.
fn run(daemon: &TestDaemon, arguments: &[&str]) -> CommandOutput {
    let mut command = command(arguments);
    set_environment(&mut command, daemon);
    CommandOutput::of(&mut command)
}

/// Makes the command find this daemon and write its token file to the daemon's folder.
fn set_environment(command: &mut Command, daemon: &TestDaemon) {
    let socket = daemon.socket();
    command
        .env("XDG_RUNTIME_DIR", socket.parent().unwrap())
        .env("REAPERD_SOCKET", socket);
}

/// The output and exit code of a command.
#[derive(Debug)]
struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

impl CommandOutput {
    /// Runs the command to its end.
    fn of(command: &mut Command) -> Self {
        Self::by(command.output().unwrap())
    }

    fn by(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks that the command succeeded without an error message. Returns its output.
    fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(DONE), ""), "{self:?}");
        self.out
    }

    /// Checks that the command failed with this code and sentence, and printed a remedy.
    fn failed(&self, code: i32, sentence: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "a failure has no output");
        assert!(self.err.contains(sentence), "{self:?}");
        assert!(self.err.contains("  try: "), "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

/// A running command; killed and reaped on drop.
struct Launched {
    child: Child,
    /// `None`: closed.
    out: Option<BufReader<ChildStdout>>,
}

impl Launched {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            out: Some(out),
        }
    }

    /// Closes the reading end of its output.
    fn close(&mut self) {
        self.out = None;
    }

    /// Reads lines up to the first for which `wanted` returns true.
    fn line_that(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let mut lines = std::iter::repeat_with(|| self.line());
        lines.find(|line| wanted(line)).unwrap()
    }

    /// Reads the next line, which must begin within the usual time limit; empty at the end.
    fn line(&mut self) -> String {
        let out = self.out.as_mut().unwrap();
        if out.buffer().is_empty() {
            let limit = Timespec::try_from(TIMEOUT).unwrap();
            let mut polled = [PollFd::new(out.get_ref(), PollFlags::IN)];
            let ready = poll(&mut polled, Some(&limit)).unwrap();
            assert_eq!(ready, 1, "no line within {TIMEOUT:?}");
        }
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}
