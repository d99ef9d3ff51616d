//! The fork server's side: one order a line on standard input, its answer on standard output. Test processes
//! answer for themselves, once they are set up.

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
use super::pid_reuse::{First, Registration};
use super::{Kind, forked_process};
use crate::sys::{Forker, block_cues, ignore_children};

/// Of the clock that start times are told in: `USER_HZ` is 100 on every architecture here.
const TICK_NS: u64 = 10_000_000;

/// Obeys until nobody gives orders any more. Must be called while this process has one thread.
pub fn run(keep_zombies: bool) -> io::Result<()> {
    let forker = Forker::of_this_process()?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Orphans come back here instead of to an init that may not reap.
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
    for order in io::stdin().lines() {
        fork_server.obey(&order?)?;
    }
    Ok(())
}

struct ForkServer {
    forker: Forker,
    pid: Pid,
}

impl ForkServer {
    fn obey(&self, order: &str) -> io::Result<()> {
        let nonsense = || io::Error::other(format!("not an order: {order:?}"));
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        let pid = |word: &str| word.parse().ok().and_then(Pid::from_raw);
        match verb {
            "start" => {
                let (number, kind) = rest.split_once(' ').ok_or_else(nonsense)?;
                let number: usize = number.parse().map_err(io::Error::other)?;
                let kind: Kind = kind.parse().map_err(|_unknown| nonsense())?;
                for _ in 0..number {
                    self.forker.fork(|| forked_process::live(kind, self.pid))?;
                }
                Ok(())
            }
            "twins" => self.pid_reuse(rest).ok_or_else(nonsense)?,
            "start-registered" => self.start_registered(rest).ok_or_else(nonsense)?,
            "replace" => self.replace(rest).ok_or_else(nonsense)?,
            "end" => {
                let pid = pid(rest).ok_or_else(nonsense)?;
                kill_process(pid, Signal::KILL)?;
                answer(&format!("{}", reap(pid)?.cast_unsigned()))
            }
            "reap" => {
                let status = reap(pid(rest).ok_or_else(nonsense)?)?;
                answer(&format!("{}", status.cast_unsigned()))
            }
            _ => Err(nonsense()),
        }
    }

    /// `TICKS SOCKET TOKEN SESSION`, where the session's name may have blanks.
    fn pid_reuse(&self, words: &str) -> Option<io::Result<()>> {
        let mut words = words.splitn(4, ' ');
        let ticks = words.next()?.parse().ok()?;
        let registration = Registration {
            socket: words.next()?,
            token: words.next()?,
            session: words.next()?,
        };
        Some(match registration.of_pid_reuse(&self.forker, ticks) {
            Ok(First { pid, answer: told }) => {
                let (start_time, identity) = (&told["start_time"], &told["identity"]);
                answer(&format!("{} {start_time} {identity}", pid.as_raw_nonzero()))
            }
            Err(error) => answer_with(error),
        })
    }

    /// `PID SOCKET TOKEN SESSION`; 0 leaves the pid to the kernel.
    fn start_registered(&self, words: &str) -> Option<io::Result<()>> {
        let mut words = words.splitn(4, ' ');
        let pid = Pid::from_raw(words.next()?.parse().ok()?);
        let session = Session {
            socket: words.next()?,
            token: words.next()?,
            name: words.next()?,
        };
        Some(match session.start(&self.forker, pid) {
            Ok((pid, told)) => answer(&format!("{pid} {}", told.line())),
            Err(error) => answer_with(error),
        })
    }

    /// `DAEMON SOCKET TOKEN TOKEN SESSION SESSION`.
    fn replace(&self, words: &str) -> Option<io::Result<()>> {
        let mut words = words.splitn(6, ' ');
        let daemon = words.next()?.parse().ok()?;
        let socket = words.next()?;
        let tokens = (words.next()?, words.next()?);
        let names = (words.next()?, words.next()?);
        let session = |token, name| Session {
            socket,
            token,
            name,
        };
        let (first, second) = (session(tokens.0, names.0), session(tokens.1, names.1));
        Some(match first.replace(&second, &self.forker, daemon) {
            Ok((pid, first, second)) => {
                answer(&format!("{} {}", pid.as_raw_nonzero(), first.line()))
                    .and_then(|()| answer(&second.line()))
            }
            Err(error) => answer_with(error),
        })
    }
}

fn answer_with(error: io::Error) -> io::Result<()> {
    match Errno::from_io_error(&error) {
        Some(errno) => answer(&format!("error {}", errno.raw_os_error())),
        None => Err(error),
    }
}

pub(super) fn reap(pid: Pid) -> io::Result<i32> {
    let ended = waitpid(Some(pid), WaitOptions::empty())?;
    let (_, status) = ended.ok_or_else(|| io::Error::other("it has not ended"))?;
    Ok(status.as_raw())
}

/// Returns just behind the beginning of a tick: nobody tells of one, so it is slept for.
pub(super) fn pass_ticks(number: u32) {
    for _ in 0..number {
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
pub(super) fn answer(words: &str) -> io::Result<()> {
    let line = format!("{words}\n");
    rustix::io::write(io::stdout().as_fd(), line.as_bytes())?;
    Ok(())
}
