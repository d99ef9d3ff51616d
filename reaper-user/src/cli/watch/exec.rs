//! `--exec`: runs a command for each event.
//!
//! Events of one session are handled by one thread, in their order, so their commands never run at the same
//! time. A full queue holds up the reading of events.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc;

use super::super::output::print_message;
use crate::clock::Deadline;

/// How many commands run at the same time.
const THREADS: usize = 8;
/// Events that wait for one thread.
const QUEUE: usize = 256;
/// Between two looks at a running command.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Variables with a token, or with the path of one, of a session that is not the event's.
const SECRETS: [&str; 3] = [
    "CLAUDEMESH_IPC_TOKEN",
    "CLAUDEMESH_IPC_TOKEN_FILE",
    "REAPERD_TOKEN_FILE",
];

/// Runs the commands.
pub(super) struct Executor {
    queues: Vec<mpsc::Sender<String>>,
    threads: Vec<JoinHandle<()>>,
}

impl Executor {
    /// Starts the threads. `command` is for `/bin/sh -c`.
    pub(super) fn start(command: &str, limit: Duration) -> io::Result<Self> {
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for number in 0..THREADS {
            let (sender, mut lines) = mpsc::channel::<String>(QUEUE);
            let command = command.to_owned();
            let thread = thread::Builder::new().name(format!("exec-{number}"));
            threads.push(thread.spawn(move || {
                while let Some(line) = lines.blocking_recv() {
                    run(&command, &line, limit);
                }
            })?);
            queues.push(sender);
        }
        Ok(Self { queues, threads })
    }

    /// Queues an event of this session, as a line of JSON.
    pub(super) async fn submit(&self, session: &str, line: &str) {
        let mut hasher = DefaultHasher::new();
        session.hash(&mut hasher);
        let number = usize::try_from(hasher.finish() % THREADS as u64).unwrap_or_default();
        // It is closed only after a panic of its thread, which was printed.
        let sent = self.queues[number].send(format!("{line}\n")).await;
        sent.unwrap_or_default();
    }

    /// Waits until every queued event is handled.
    pub(super) fn finish(self) {
        drop(self.queues);
        for thread in self.threads {
            thread.join().unwrap_or_default();
        }
    }
}

/// Runs the command with this line as its standard input, and prints why it failed.
fn run(command: &str, line: &str, limit: Duration) {
    match status_of(command, line, limit) {
        Ok(Some(status)) if status.success() => {}
        Ok(Some(status)) => print_message(&format!("reaperd: --exec: {status}: {command}")),
        Ok(None) => print_message(&format!(
            "reaperd: --exec: killed after {limit:?} (--exec-timeout): {command}"
        )),
        Err(error) => print_message(&format!("reaperd: --exec: {error}: {command}")),
    }
}

/// Returns the status; `None` if the time was over.
fn status_of(command: &str, line: &str, limit: Duration) -> io::Result<Option<ExitStatus>> {
    // A file, because a command that reads nothing must not hold up this thread.
    let mut input = tempfile::tempfile()?;
    input.write_all(line.as_bytes())?;
    input.seek(SeekFrom::Start(0))?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::from(input));
    for variable in SECRETS {
        shell.env_remove(variable);
    }
    // A group of its own, so that what it has started ends with it if its time is over.
    let mut child = shell.process_group(0).spawn()?;
    let deadline = Deadline::after(limit);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if deadline.has_passed() {
            kill(&mut child);
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn kill(child: &mut Child) {
    // Not reaped yet, so the number is still that of its group.
    kill_process_group(Pid::from_child(child), Signal::KILL).unwrap_or_default();
    child.wait().map(drop).unwrap_or_default();
}
