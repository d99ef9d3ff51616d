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

use reaper_registry::Token;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

pub use commands::run;
pub use kind::{Kind, Unknown};
pub use pid_owners::Response;

/// The argument that makes a fork server keep zombies until [`ForkServer::reap`]. Otherwise the kernel
/// reaps them.
pub const KEEP_ZOMBIES: &str = "keep-zombies";

/// The cue of every process that waits for one.
pub const CUE: Signal = Signal::USR1;
/// The cue of the last thread of [`Kind::LeaderFirst`].
pub const LAST_CUE: Signal = Signal::USR2;

/// A pid whose first process has ended and whose second one is running.
pub struct PidReuse {
    pub pid: u32,
    /// The start time of the first one in ticks, from the daemon's response.
    pub start_time: u64,
    /// What pinned the first one, from the same response.
    pub identity: String,
}

/// A running fork server. Dropped, it is killed with all its processes.
pub struct ForkServer {
    process: Child,
    commands: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl ForkServer {
    /// Starts the program that calls [`run`].
    pub fn open(mut program: Command) -> io::Result<Self> {
        let mut process = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let closed = || io::Error::other("a pipe of the fork server is missing");
        Ok(Self {
            commands: process.stdin.take().ok_or_else(closed)?,
            replies: BufReader::new(process.stdout.take().ok_or_else(closed)?),
            process,
        })
    }

    /// Starts so many processes and returns their pids once all are ready. Each of
    /// [`Kind::ParentFirst`] is two: the parent, then the child. So is each of the kinds with a tracer,
    /// which comes first.
    pub fn start(&mut self, count: usize, kind: Kind) -> io::Result<Vec<u32>> {
        writeln!(self.commands, "start {count} {kind}")?;
        let mut pids = Vec::with_capacity(count);
        for _ in 0..count {
            pids.extend(self.numbers()?);
        }
        Ok(pids)
    }

    /// As above, for a single process.
    pub fn start_one(&mut self, kind: Kind) -> io::Result<u32> {
        writeln!(self.commands, "start 1 {kind}")?;
        self.number()
    }

    /// Starts a process just after a tick of the clock of start times, registers it as this session,
    /// kills and reaps it, and starts an idle process under its pid so many ticks later. Fails with
    /// [`Errno::EXIST`] if an unrelated process has taken the pid.
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
        let (socket, token) = (socket.display(), token.reveal());
        writeln!(
            self.commands,
            "reuse-pid {ticks} {socket} {} {session}",
            &*token
        )?;
        let reply = self.reply()?;
        let mut fields = reply.split_whitespace();
        let mut field = || {
            fields
                .next()
                .ok_or_else(|| io::Error::other("too few fields"))
        };
        Ok(PidReuse {
            pid: field()?.parse().map_err(io::Error::other)?,
            start_time: field()?.parse().map_err(io::Error::other)?,
            identity: field()?.trim_matches('"').to_owned(),
        })
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
        let (socket, token) = (socket.display(), token.reveal());
        let pid = pid.unwrap_or(0);
        writeln!(
            self.commands,
            "start-registered {pid} {socket} {} {session}",
            &*token
        )?;
        self.reply_about_one()
    }

    /// Registers a process as the first of two sessions. Then, while the daemon is stopped, kills it and
    /// starts another under its pid, which is registered as the second session. The daemon receives the
    /// hint of the death and the registration together. Session names must not contain blanks. Fails
    /// with [`Errno::EXIST`] if another process has taken the pid. Needs [`KEEP_ZOMBIES`], and the right
    /// to choose pids.
    pub fn replace(
        &mut self,
        daemon: u32,
        socket: &Path,
        tokens: [&Token; 2],
        sessions: [&str; 2],
    ) -> io::Result<(u32, [Response; 2])> {
        let socket = socket.display();
        let [first, second] = tokens.map(Token::reveal);
        let [session, successor] = sessions;
        writeln!(
            self.commands,
            "replace {daemon} {socket} {} {} {session} {successor}",
            &*first, &*second
        )?;
        let (pid, first) = self.reply_about_one()?;
        let second = Response::parse(self.reply()?.trim())?;
        Ok((pid, [first, second]))
    }

    fn reply_about_one(&mut self) -> io::Result<(u32, Response)> {
        let line = self.reply()?;
        let (pid, response) = line
            .trim()
            .split_once(' ')
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok((
            pid.parse().map_err(io::Error::other)?,
            Response::parse(response)?,
        ))
    }

    /// Kills and reaps an idle process, by its pid in the fork server's namespace; returns its wait
    /// status.
    pub fn end(&mut self, pid: u32) -> io::Result<u32> {
        writeln!(self.commands, "end {pid}")?;
        self.number()
    }

    /// Waits until this process has ended and reaps it; returns its wait status. Needs
    /// [`KEEP_ZOMBIES`].
    pub fn reap(&mut self, pid: u32) -> io::Result<u32> {
        writeln!(self.commands, "reap {pid}")?;
        self.number()
    }

    fn number(&mut self) -> io::Result<u32> {
        let numbers = self.numbers()?;
        numbers
            .first()
            .copied()
            .ok_or_else(|| io::Error::other("the fork server sent an empty line"))
    }

    fn numbers(&mut self) -> io::Result<Vec<u32>> {
        self.reply()?
            .split_whitespace()
            .map(|number| number.parse().map_err(io::Error::other))
            .collect()
    }

    fn reply(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the fork server has ended"));
        }
        let Some(error) = line.strip_prefix("error ") else {
            return Ok(line);
        };
        let errno = error.trim().parse().map_err(io::Error::other)?;
        Err(Errno::from_raw_os_error(errno).into())
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
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
