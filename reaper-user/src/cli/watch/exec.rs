//! `--exec`: runs a command for each event.
//!
//! Events of one session are handled by one thread, in their order, so their commands never run at the same
//! time. A full queue holds up the reading of events.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    stop: Stop,
}

/// Whether running commands are to be killed, and queued ones to be left out.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Kills the running commands, and lets no further ones run.
    pub(super) fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a command ended.
enum Ended {
    Itself(ExitStatus),
    OutOfTime,
    Stopped,
}

impl Executor {
    /// Starts the threads. `command` is for `/bin/sh -c`.
    pub(super) fn start(command: &str, limit: Duration) -> io::Result<Self> {
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        let stop = Stop::default();
        for number in 0..THREADS {
            let (sender, mut lines) = mpsc::channel::<String>(QUEUE);
            let command = command.to_owned();
            let stop = stop.clone();
            let thread = thread::Builder::new().name(format!("exec-{number}"));
            threads.push(thread.spawn(move || {
                while let Some(line) = lines.blocking_recv()
                    && !stop.is_requested()
                {
                    run(&command, &line, limit, &stop);
                }
            })?);
            queues.push(sender);
        }
        Ok(Self {
            queues,
            threads,
            stop,
        })
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

    /// Returns what ends the commands early.
    pub(super) fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Waits until every queued event is handled, or until a requested stop has taken effect.
    pub(super) fn finish(self) {
        drop(self.queues);
        for thread in self.threads {
            thread.join().unwrap_or_default();
        }
    }
}

/// Runs the command with this line as its standard input, and prints why it failed.
fn run(command: &str, line: &str, limit: Duration, stop: &Stop) {
    match end_of(command, line, limit, stop) {
        Ok(Ended::Stopped) => {}
        Ok(Ended::Itself(status)) if status.success() => {}
        Ok(Ended::Itself(status)) => {
            print_message(&format!("reaperd: --exec: {status}: {command}"));
        }
        Ok(Ended::OutOfTime) => print_message(&format!(
            "reaperd: --exec: killed after {limit:?} (--exec-timeout): {command}"
        )),
        Err(error) => print_message(&format!("reaperd: --exec: {error}: {command}")),
    }
}

/// Runs the command until it ends.
fn end_of(command: &str, line: &str, limit: Duration, stop: &Stop) -> io::Result<Ended> {
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
            return Ok(Ended::Itself(status));
        }
        let ended = match (stop.is_requested(), deadline.has_passed()) {
            (true, _) => Some(Ended::Stopped),
            (false, true) => Some(Ended::OutOfTime),
            (false, false) => None,
        };
        if let Some(ended) = ended {
            kill(&mut child);
            return Ok(ended);
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn kill(child: &mut Child) {
    // Not reaped yet, so the number is still that of its group.
    kill_process_group(Pid::from_child(child), Signal::KILL).unwrap_or_default();
    child.wait().map(drop).unwrap_or_default();
}
