//! A single-threaded child that forks processes on command, so that each is as small as a process can
//! be. What they do is in `fork_server/forked_process.rs`; the caller kills them.

mod commands;
mod forked_process;
mod kind;
mod pid_owners;
mod pid_reuse;
mod traced;

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use reaper_registry::Token;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use pid_owners::Session;

use crate::daemon::children_of;
use crate::wait::Deadline;

pub use commands::run;
pub use kind::Kind;
pub use pid_owners::Response;

/// The argument that makes a fork server keep zombies until [`ForkServer::reap`]. Otherwise the kernel
/// reaps them.
pub const KEEP_ZOMBIES: &str = "keep-zombies";

/// The cue of every process that waits for one.
pub const CUE: Signal = Signal::USR1;
/// The cue of the last thread of [`Kind::LeaderFirst`].
pub const LAST_CUE: Signal = Signal::USR2;

/// A pid whose first process has ended and whose second one is running.
#[derive(Deserialize, Serialize)]
pub struct PidReuse {
    /// Not in the daemon's response.
    #[serde(default)]
    pub pid: u32,
    /// The start time of the first one in ticks, from the daemon's response.
    pub start_time: u64,
    /// What pinned the first one, from the same response.
    pub identity: String,
}

/// The name of the program.
const NAME: &str = "fork_server";
/// How long a program may take to end after the fork server that it has started.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// A running fork server. Dropped, it is killed with all its processes.
pub struct ForkServer {
    process: Child,
    commands: ChildStdin,
    replies: BufReader<ChildStdout>,
    /// Whether the process that was started is another program, which has started the fork server.
    is_behind_another: bool,
}

impl ForkServer {
    /// Starts the program that calls [`run`].
    pub fn open(mut program: Command) -> io::Result<Self> {
        let mut process = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        // As `nsenter` is, whose child it is.
        let is_behind_another = Path::new(program.get_program()).file_name() != Some(NAME.as_ref());
        let closed = || io::Error::other("a pipe of the fork server is missing");
        Ok(Self {
            commands: process.stdin.take().ok_or_else(closed)?,
            replies: BufReader::new(process.stdout.take().ok_or_else(closed)?),
            process,
            is_behind_another,
        })
    }

    /// Starts so many processes and returns their pids once all are ready. Each of
    /// [`Kind::ParentFirst`] is two: the parent, then the child. So is each of the kinds with a tracer,
    /// which comes first.
    pub fn start(&mut self, count: usize, kind: Kind) -> io::Result<Vec<u32>> {
        self.send(&commands::Command::Start { count, kind })?;
        let mut pids = Vec::with_capacity(count);
        for _ in 0..count {
            pids.extend(self.reply::<Vec<u32>>()?);
        }
        Ok(pids)
    }

    /// As above, for a single process.
    pub fn start_one(&mut self, kind: Kind) -> io::Result<u32> {
        Ok(self.start(1, kind)?[0])
    }

    /// Starts a process just after a tick of the clock of start times, registers it as this session,
    /// kills and reaps it, and starts an idle process under its pid so many ticks later. Fails with
    /// [`rustix::io::Errno::EXIST`] if an unrelated process has taken the pid.
    ///
    /// Needs a fork server with [`KEEP_ZOMBIES`], and the right to choose pids; see
    /// [`crate::sys::Forker::fork_still`].
    pub fn pid_reuse(
        &mut self,
        socket: &Path,
        token: &Token,
        session: &str,
        ticks: u32,
    ) -> io::Result<PidReuse> {
        let session = Session::new(socket, token, session);
        self.ask(&commands::Command::ReusePid { session, ticks })
    }

    /// Starts an idle process, under this pid if one is given, and registers it as this session;
    /// returns its pid in the fork server's namespace. Needs [`KEEP_ZOMBIES`].
    pub fn start_registered(
        &mut self,
        pid: Option<u32>,
        socket: &Path,
        token: &Token,
        session: &str,
    ) -> io::Result<(u32, Response)> {
        let session = Session::new(socket, token, session);
        self.ask(&commands::Command::StartRegistered { session, pid })
    }

    /// Registers a process as the first of two sessions. Then, while the daemon is stopped, kills it and
    /// starts another under its pid, which is registered as the second session. The daemon receives the
    /// hint of the death and the registration together. Fails with [`rustix::io::Errno::EXIST`] if another
    /// process has taken the pid. Needs [`KEEP_ZOMBIES`], and the right to choose pids.
    pub fn replace(
        &mut self,
        daemon: u32,
        socket: &Path,
        tokens: [&Token; 2],
        sessions: [&str; 2],
    ) -> io::Result<(u32, [Response; 2])> {
        let session = |at: usize| Session::new(socket, tokens[at], sessions[at]);
        let sessions = [session(0), session(1)];
        self.ask(&commands::Command::Replace { sessions, daemon })
    }

    /// Kills and reaps an idle process, by its pid in the fork server's namespace; returns its wait
    /// status.
    pub fn end(&mut self, pid: u32) -> io::Result<u32> {
        self.ask(&commands::Command::End(pid))
    }

    /// Waits until this process has ended and reaps it; returns its wait status. Needs
    /// [`KEEP_ZOMBIES`].
    pub fn reap(&mut self, pid: u32) -> io::Result<u32> {
        self.ask(&commands::Command::Reap(pid))
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &commands::Command) -> io::Result<T> {
        self.send(command)?;
        let result: Result<T, i32> = self.reply()?;
        result.map_err(io::Error::from_raw_os_error)
    }

    fn send(&mut self, command: &commands::Command) -> io::Result<()> {
        writeln!(self.commands, "{}", serde_json::to_string(command)?)
    }

    fn reply<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the fork server has ended"));
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        if self.is_behind_another {
            // Killed together with its parent, it would stay a zombie until init reaps it, and the init of
            // its pid namespace, the daemon of a test, cannot end before that.
            for pid in children_of(self.process.id()) {
                kill_process(pid, Signal::KILL).unwrap_or_default();
            }
            let deadline = Deadline::after(ENDS_WITHIN);
            while matches!(self.process.try_wait(), Ok(None)) && !deadline.has_passed() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        // It may have ended already.
        kill_process_group(Pid::from_child(&self.process), Signal::KILL).unwrap_or_default();
        self.process.wait().map(drop).unwrap_or_default();
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(|| io::Error::other("pid 0"))?;
    Ok(kill_process(pid, signal)?)
}

/// Kills a process.
pub fn kill(pid: u32) -> io::Result<()> {
    signal(pid, Signal::KILL)
}
