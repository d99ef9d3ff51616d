//! The fork server's side: each line of standard input is a command, its reply goes to standard output.
//! The forked processes send their replies themselves, once they are ready.

use std::io;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getpid, kill_process, setrlimit, waitpid,
};
use rustix::process::{set_child_subreaper, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};

use super::pid_owners::Session;
use super::{Kind, forked_process};
use crate::sys::{Forker, block_cues, ignore_children};

/// A tick of start times: `USER_HZ` is 100 on every architecture here.
const TICK_NS: u64 = 10_000_000;

/// Runs commands until the end of the input. Must be called while this process has one thread.
pub fn run(keep_zombies: bool) -> io::Result<()> {
    let forker = Forker::of_this_process()?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Orphans become children of this process, and not of an init that may not reap.
    set_child_subreaper(Some(getpid()))?;
    let no_core = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, no_core)?;
    block_cues();
    if !keep_zombies {
        ignore_children();
    }
    let fork_server = ForkServer {
        forker,
        pid: getpid(),
    };
    for command in io::stdin().lines() {
        fork_server.execute(&command?)?;
    }
    Ok(())
}

struct ForkServer {
    forker: Forker,
    pid: Pid,
}

impl ForkServer {
    fn execute(&self, command: &str) -> io::Result<()> {
        let invalid = || io::Error::other(format!("not a command: {command:?}"));
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let pid = |text: &str| text.parse().ok().and_then(Pid::from_raw);
        match verb {
            "start" => {
                let (count, kind) = rest.split_once(' ').ok_or_else(invalid)?;
                let count: usize = count.parse().map_err(io::Error::other)?;
                let kind: Kind = kind.parse().map_err(|_unknown| invalid())?;
                for _ in 0..count {
                    self.forker.fork(|| forked_process::run(kind, self.pid))?;
                }
                Ok(())
            }
            "reuse-pid" => self.pid_reuse(rest).ok_or_else(invalid)?,
            "start-registered" => self.start_registered(rest).ok_or_else(invalid)?,
            "replace" => self.replace(rest).ok_or_else(invalid)?,
            "end" => {
                let pid = pid(rest).ok_or_else(invalid)?;
                kill_process(pid, Signal::KILL)?;
                reply(&format!("{}", reap(pid)?.cast_unsigned()))
            }
            "reap" => {
                let status = reap(pid(rest).ok_or_else(invalid)?)?;
                reply(&format!("{}", status.cast_unsigned()))
            }
            _ => Err(invalid()),
        }
    }

    /// `TICKS SOCKET TOKEN SESSION`.
    fn pid_reuse(&self, arguments: &str) -> Option<io::Result<()>> {
        let (ticks, session) = arguments.split_once(' ')?;
        let ticks = ticks.parse().ok()?;
        Some(
            match Session::parse(session)?.reuse_pid(&self.forker, ticks) {
                Ok((pid, registered)) => {
                    let (start_time, identity) =
                        (&registered["start_time"], &registered["identity"]);
                    reply(&format!("{} {start_time} {identity}", pid.as_raw_nonzero()))
                }
                Err(error) => reply_error(error),
            },
        )
    }

    /// `PID SOCKET TOKEN SESSION`; 0 leaves the pid to the kernel.
    fn start_registered(&self, arguments: &str) -> Option<io::Result<()>> {
        let (pid, session) = arguments.split_once(' ')?;
        let pid = Pid::from_raw(pid.parse().ok()?);
        Some(match Session::parse(session)?.start(&self.forker, pid) {
            Ok((pid, response)) => reply(&format!("{pid} {}", response.line())),
            Err(error) => reply_error(error),
        })
    }

    /// `DAEMON SOCKET TOKEN TOKEN SESSION SESSION`.
    fn replace(&self, arguments: &str) -> Option<io::Result<()>> {
        let mut arguments = arguments.splitn(6, ' ');
        let daemon = arguments.next()?.parse().ok()?;
        let socket = arguments.next()?;
        let tokens = (arguments.next()?, arguments.next()?);
        let names = (arguments.next()?, arguments.next()?);
        let session = |token, name| Session {
            socket,
            token,
            name,
        };
        let (first, second) = (session(tokens.0, names.0), session(tokens.1, names.1));
        Some(match first.replace(&second, &self.forker, daemon) {
            Ok((pid, first, second)) => {
                reply(&format!("{} {}", pid.as_raw_nonzero(), first.line()))
                    .and_then(|()| reply(&second.line()))
            }
            Err(error) => reply_error(error),
        })
    }
}

fn reply_error(error: io::Error) -> io::Result<()> {
    match Errno::from_io_error(&error) {
        Some(errno) => reply(&format!("error {}", errno.raw_os_error())),
        None => Err(error),
    }
}

pub(super) fn reap(pid: Pid) -> io::Result<i32> {
    let ended = waitpid(Some(pid), WaitOptions::empty())?;
    let (_, status) = ended.ok_or_else(|| io::Error::other("it has not ended"))?;
    Ok(status.as_raw())
}

/// Returns just after the beginning of a tick. Nothing signals one, so this sleeps until it is due.
pub(super) fn pass_ticks(count: u32) {
    for _ in 0..count {
        let tick = boottime_ns() / TICK_NS;
        while boottime_ns() / TICK_NS == tick {
            let left = TICK_NS - boottime_ns() % TICK_NS;
            thread::sleep(Duration::from_nanos(left));
        }
    }
}

fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// One write, so that lines of several processes do not mix.
pub(super) fn reply(text: &str) -> io::Result<()> {
    let line = format!("{text}\n");
    rustix::io::write(io::stdout().as_fd(), line.as_bytes())?;
    Ok(())
}
