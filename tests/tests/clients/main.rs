//! Clients in other languages, written from the documentation with their standard libraries alone. Each test
//! runs one of their files, which has the checks, and shows what it printed if it fails.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "steps of tests")]
#![expect(clippy::print_stdout, reason = "what the clients print")]

mod examples;
mod node;
mod python;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reaper_tests::daemon::{private_folder, program};
use reaper_tests::expect::skip_without;
use reaper_tests::wait::Deadline;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// Longer than any of them takes. One that hangs is ended then.
const LIMIT: Duration = Duration::from_mins(10);
/// Between two looks at one of them.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A file that an interpreter runs.
struct Script {
    command: Command,
    folder: TempDir,
}

impl Script {
    /// The file `name` of this language. Without its interpreter, the test is skipped, or fails where
    /// `REAPER_REQUIRE` lists the language.
    fn of(language: &str, interpreter: &str, name: &str) -> Option<Self> {
        let Some(found) = program(interpreter) else {
            skip_without(language, format_args!("{interpreter} is not installed"));
            return None;
        };
        let folder = private_folder();
        let mut command = Command::new(found);
        command
            .arg(file(&format!("tests/clients/{language}/{name}")))
            .env("TEST_FOLDER", folder.path());
        Some(Self { command, folder })
    }

    /// As [`Self::of`] for Python, with the packages that `.ci/install-clients` installs.
    fn with_packages(name: &str) -> Option<Self> {
        let python = file("../target/clients/bin/python3");
        if !python.exists() {
            skip_without("schemathesis", "run .ci/install-clients");
            return None;
        }
        Script::of("python", python.to_str().unwrap(), name)
    }

    fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it. Unless it exits with success in time, the test fails with what it printed.
    fn run(mut self) {
        let path = self.folder.path().join("output");
        let output = File::create(&path).unwrap();
        self.command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0);
        let mut group = Group(self.command.spawn().unwrap());
        let deadline = Deadline::after(LIMIT);
        let status = loop {
            match group.0.try_wait().unwrap() {
                None if !deadline.has_passed() => std::thread::sleep(POLL_INTERVAL),
                ended => break ended,
            }
        };
        let text = fs::read_to_string(&path).unwrap();
        let is_success = status.is_some_and(|status| status.success());
        assert!(
            is_success,
            "{status:?} (none: not within {LIMIT:?})\n{text}"
        );
        // With the reasons of the parts that it skipped.
        println!("{text}");
    }
}

/// A process and those that it has started, which end with the test.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        // All have ended in the normal case.
        kill_process_group(group, Signal::KILL).unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

/// A file of this package.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
