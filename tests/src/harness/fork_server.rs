//! Processes to die: a child of ours with one thread that forks them on demand, so that a test process is
//! as small as a process can be. What each of them does is in `fork_server/forked_process.rs`; who is killed and
//! when is left to the caller.

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
pub use pid_owners::Answer;

/// What the fork server is told on its command line if the dead are to stay until somebody asks for
/// them; else the kernel collects them.
pub const KEEP_ZOMBIES: &str = "keep-the-dead";

/// The cue of every test process that waits for one.
pub const CUE: Signal = Signal::USR1;
/// The cue of the last thread of [`Kind::LeaderFirst`].
pub const LAST_CUE: Signal = Signal::USR2;

/// A number whose first owner is dead and whose second one lives.
pub struct PidReuse {
    pub pid: u32,
    /// The first one's, in ticks, as the daemon told it.
    pub start_time: u64,
    /// What pinned the first one.
    pub identity: String,
}

/// A running fork server. Dropped, it goes with everybody in it.
pub struct ForkServer {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
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
            answers: BufReader::new(process.stdout.take().ok_or_else(closed)?),
            process,
        })
    }

    /// Starts so many test processes and answers with their numbers once all are set up. One of
    /// [`Kind::ParentFirst`] is two: the parent and behind it the child. So is one of the kinds with a
    /// tracer, which comes first.
    pub fn start(&mut self, number: usize, kind: Kind) -> io::Result<Vec<u32>> {
        writeln!(self.commands, "start {number} {kind}")?;
        let mut pids = Vec::with_capacity(number);
        for _ in 0..number {
            pids.extend(self.numbers()?);
        }
        Ok(pids)
    }

    /// As above, for one that is a single process.
    pub fn start_one(&mut self, kind: Kind) -> io::Result<u32> {
        writeln!(self.commands, "start 1 {kind}")?;
        self.number()
    }

    /// Has a process born just after a tick of the clock that start times are told in, registers it
    /// as this session, kills and reaps it, and gives its number to an idle one: at once, or when so
    /// many ticks have passed. [`Errno::EXIST`]: all is done but the last, a unrelated process was faster.
    ///
    /// The dead must be kept here, and the right to choose numbers is needed; see
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
            "twins {ticks} {socket} {} {session}",
            &*token
        )?;
        let answer = self.answer()?;
        let mut words = answer.split_whitespace();
        let mut word = || {
            words
                .next()
                .ok_or_else(|| io::Error::other("too few words"))
        };
        Ok(PidReuse {
            pid: word()?.parse().map_err(io::Error::other)?,
            start_time: word()?.parse().map_err(io::Error::other)?,
            identity: word()?.trim_matches('"').to_owned(),
        })
    }

    /// Starts an idle process, under this pid if one is given, and registers it as this session;
    /// returns its pid as numbered in the fork server's namespace. The dead must be kept here.
    pub fn start_registered(
        &mut self,
        pid: Option<u32>,
        socket: &Path,
        token: &Token,
        session: &str,
    ) -> io::Result<(u32, Answer)> {
        let (socket, token) = (socket.display(), token.reveal());
        let pid = pid.unwrap_or(0);
        writeln!(
            self.commands,
            "start-registered {pid} {socket} {} {session}",
            &*token
        )?;
        self.answer_about_one()
    }

    /// Registers a process as the first of two sessions and, while the daemon is stopped, ends it and
    /// has its pid used again by one that is registered as the second session. The daemon learns of
    /// both together. Session names must be without blanks. [`Errno::EXIST`]: another process got the
    /// pid. The dead must be kept here, and the right to choose pids is needed.
    pub fn replace(
        &mut self,
        daemon: u32,
        socket: &Path,
        tokens: [&Token; 2],
        sessions: [&str; 2],
    ) -> io::Result<(u32, [Answer; 2])> {
        let socket = socket.display();
        let [first, second] = tokens.map(Token::reveal);
        let [session, successor] = sessions;
        writeln!(
            self.commands,
            "replace {daemon} {socket} {} {} {session} {successor}",
            &*first, &*second
        )?;
        let (pid, first) = self.answer_about_one()?;
        let second = Answer::parse(self.answer()?.trim())?;
        Ok((pid, [first, second]))
    }

    fn answer_about_one(&mut self) -> io::Result<(u32, Answer)> {
        let line = self.answer()?;
        let (pid, answer) = line
            .trim()
            .split_once(' ')
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok((
            pid.parse().map_err(io::Error::other)?,
            Answer::parse(answer)?,
        ))
    }

    /// Kills and reaps an idle process, whose pid is the one of the fork server's namespace; returns its
    /// wait status.
    pub fn end(&mut self, pid: u32) -> io::Result<u32> {
        writeln!(self.commands, "end {pid}")?;
        self.number()
    }

    /// Waits until this test process has ended, where the dead are kept, and reaps it; answers with its
    /// wait status.
    pub fn reap(&mut self, pid: u32) -> io::Result<u32> {
        writeln!(self.commands, "reap {pid}")?;
        self.number()
    }

    fn number(&mut self) -> io::Result<u32> {
        let numbers = self.numbers()?;
        numbers
            .first()
            .copied()
            .ok_or_else(|| io::Error::other("the fork server answered with an empty line"))
    }

    fn numbers(&mut self) -> io::Result<Vec<u32>> {
        self.answer()?
            .split_whitespace()
            .map(|word| word.parse().map_err(io::Error::other))
            .collect()
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
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
        // It may have ended already, and so may everybody in it.
        kill_process_group(Pid::from_child(&self.process), Signal::KILL).unwrap_or_default();
        self.process.wait().map(drop).unwrap_or_default();
    }
}

/// Sends a test process a signal.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(|| io::Error::other("pid 0"))?;
    Ok(kill_process(pid, signal)?)
}

/// Kills one.
pub fn kill(pid: u32) -> io::Result<()> {
    signal(pid, Signal::KILL)
}
