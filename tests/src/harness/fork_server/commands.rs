//! The fork server's side: each line of standard input is a command, its reply goes to standard output,
//! both as JSON. The forked processes send their replies themselves, once they are ready.

use std::io;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, getpid, setrlimit, waitpid};
use rustix::process::{set_child_subreaper, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::pid_owners::Session;
use super::{Kind, forked_process, kill};
use crate::sys::{Forker, block_cues, ignore_children};

/// A tick of start times: `USER_HZ` is 100 on every architecture here.
const TICK_NS: u64 = 10_000_000;

/// What the methods of [`super::ForkServer`] request.
#[derive(Deserialize, Serialize)]
pub(super) enum Command {
    /// Each process replies with its pid, or with its pid and another one.
    Start {
        count: usize,
        kind: Kind,
    },
    ReusePid {
        session: Session,
        ticks: u32,
    },
    StartRegistered {
        session: Session,
        pid: Option<u32>,
    },
    Replace {
        sessions: [Session; 2],
        daemon: u32,
    },
    End(u32),
    Reap(u32),
}

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
        match serde_json::from_str(command)? {
            Command::Start { count, kind } => {
                for _ in 0..count {
                    self.forker.fork(|| forked_process::run(kind, self.pid))?;
                }
                Ok(())
            }
            Command::ReusePid { session, ticks } => answer(session.reuse_pid(&self.forker, ticks)),
            Command::StartRegistered { session, pid } => answer(session.start(&self.forker, pid)),
            Command::Replace {
                sessions: [first, second],
                daemon,
            } => answer(first.replace(&second, &self.forker, daemon)),
            Command::End(pid) => answer(kill(pid).and_then(|()| reap(pid))),
            Command::Reap(pid) => answer(reap(pid)),
        }
    }
}

/// Replies with the result, or with the error number.
fn answer(result: io::Result<impl Serialize>) -> io::Result<()> {
    let result = match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.raw_os_error().ok_or(error)?),
    };
    reply(&result)
}

pub(super) fn reap(pid: u32) -> io::Result<u32> {
    let ended = waitpid(Pid::from_raw(pid.cast_signed()), WaitOptions::empty())?;
    let (_, status) = ended.ok_or_else(|| io::Error::other("it has not ended"))?;
    Ok(status.as_raw().cast_unsigned())
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
pub(super) fn reply(reply: &impl Serialize) -> io::Result<()> {
    let line = format!("{}\n", serde_json::to_string(reply)?);
    rustix::io::write(io::stdout().as_fd(), line.as_bytes())?;
    Ok(())
}
