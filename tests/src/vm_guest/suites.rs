//! Runs the test binaries one after another and reports each test on a second serial port, so that no
//! kernel message can appear within a verdict.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use super::boot::Commands;
use super::{context, roles};
use crate::libtest::{Event, Reader, Verdict, listed};

/// Where the host put the test binaries and the programs that they start.
const TESTS: &str = "/tests";
const DAEMON: &str = "/bin/reaperd";
const FORK_SERVER: &str = "/bin/fork_server";

/// The second serial port: the first is the console.
pub(super) struct Verdicts(File);

impl Verdicts {
    pub(super) fn open() -> Result<Self, String> {
        let port = File::options().write(true).open("/dev/ttyS1");
        Ok(Self(context("/dev/ttyS1", port)?))
    }

    pub(super) fn report(&mut self, line: &str) {
        // The host notices a missing verdict; here nothing can be done.
        drop(writeln!(self.0, "REAPER-VM {line}"));
    }

    fn report_event(&mut self, suite: &str, event: &Event) {
        match event {
            Event::Started(name) => self.report(&format!("start={suite}::{name}")),
            Event::Finished(name, verdict) => {
                let (outcome, reason) = match verdict {
                    Verdict::Ok => ("ok", ""),
                    Verdict::Skipped(reason) => ("skipped", reason.as_str()),
                    Verdict::Failed(reason) => ("failed", reason.as_str()),
                };
                self.report(&format!(
                    "test={suite}::{name} verdict={outcome} reason={reason}"
                ));
            }
            Event::Output(name, text) => self.report(&format!("output={suite}::{name} {text}")),
        }
    }
}

pub(super) fn run_all(
    commands: &Commands,
    runtime_dir: &str,
    verdicts: &mut Verdicts,
) -> Result<(), String> {
    let mut binaries = Vec::new();
    for entry in context(TESTS, fs::read_dir(TESTS))? {
        binaries.push(context(TESTS, entry)?.path());
    }
    binaries.sort();
    for binary in binaries {
        let guest = Guest {
            commands,
            runtime_dir,
        };
        let ended = guest.run(&binary, verdicts)?;
        verdicts.report(&format!("suite={} ended={ended}", name_of(&binary)));
    }
    Ok(())
}

struct Guest<'commands> {
    commands: &'commands Commands,
    runtime_dir: &'commands str,
}

impl Guest<'_> {
    /// Runs one binary to its end and returns how it ended.
    fn run(&self, binary: &Path, verdicts: &Verdicts) -> Result<String, String> {
        let suite = name_of(binary);
        let list = context(&suite, self.command(binary)?.arg("--list").output())?;
        if !list.status.success() {
            return Err(format!("{suite} --list: {}", list.status));
        }
        let reader = Reader::new(listed(&String::from_utf8_lossy(&list.stdout)));

        let mut command = self.command(binary)?;
        // One at a time: heavy tests must not disturb others, and a test that hangs is known by name.
        command
            .args(["--test-threads=1", "--show-output"])
            .stdout(Stdio::piped());
        let mut child = context(&suite, command.spawn())?;
        let output = child.stdout.take().ok_or("no pipe")?;
        let port = Verdicts(context("/dev/ttyS1", verdicts.0.try_clone())?);
        let follower = thread::spawn(move || follow(output, reader, &suite, port));

        let status = roles::reap_until(child.id())?;
        // Processes left by a test would disturb the next one and keep the pipe open. Process group 1
        // means `kill(-1)`: everything but this process.
        match kill_process_group(Pid::INIT, Signal::KILL) {
            // There are none in the normal case.
            Err(Errno::SRCH) => {}
            killed => context("kill leftovers", killed)?,
        }
        let (reader, mut port, suite) =
            follower.join().map_err(|_panic| "the follower panicked")?;
        let ended = status.to_string();
        for event in reader.finish(&ended) {
            port.report_event(&suite, &event);
        }
        Ok(ended)
    }

    fn command(&self, binary: &Path) -> Result<Command, String> {
        let Commands {
            role,
            filter,
            expect,
            require,
            scale,
        } = self.commands;
        let mut command = Command::new(context("own path", std::env::current_exe())?);
        command
            .args(["enter", role])
            .arg(binary)
            .args(filter)
            .stdin(Stdio::null())
            .env_clear();
        for (name, value) in [
            ("PATH", "/bin"),
            ("HOME", "/tmp"),
            ("TMPDIR", "/tmp"),
            ("XDG_RUNTIME_DIR", self.runtime_dir),
            ("REAPERD_BIN", DAEMON),
            ("FORK_SERVER_BIN", FORK_SERVER),
            ("REAPER_ROLE", role),
            ("REAPER_EXPECT", expect),
            ("REAPER_REQUIRE", require),
            ("REAPER_TEST_SCALE", scale),
            ("REAPER_INIT_PID_NS", &namespace("pid")?),
            ("REAPER_INIT_NET_NS", &namespace("net")?),
            ("REAPER_INIT_TIME_NS", &namespace("time")?),
        ] {
            command.env(name, value);
        }
        Ok(command)
    }
}

/// Reads the output until every writer is gone, and copies it to the console.
fn follow(
    mut output: ChildStdout,
    mut reader: Reader,
    suite: &str,
    mut port: Verdicts,
) -> (Reader, Verdicts, String) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = output.read(&mut buffer) {
        drop(std::io::stdout().write_all(&buffer[..length]));
        for event in reader.feed(&buffer[..length]) {
            port.report_event(suite, &event);
        }
    }
    (reader, port, suite.to_owned())
}

fn name_of(binary: &Path) -> String {
    PathBuf::from(binary.file_name().unwrap_or_default())
        .display()
        .to_string()
}

fn namespace(kind: &str) -> Result<String, String> {
    let link = context("namespace", fs::read_link(format!("/proc/self/ns/{kind}")))?;
    Ok(link.display().to_string())
}
