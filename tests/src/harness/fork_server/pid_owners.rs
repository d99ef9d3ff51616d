//! Processes under chosen pids. The fork server registers them itself: it is quick enough for two
//! processes within one clock tick, and it may be in a pid namespace that the test is not in.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::commands::{pass_ticks, reap};
use super::{kill, signal};
use crate::raw_http;
use crate::sys::Forker;
use crate::test_process::stat_field;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The daemon's response to a registration.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub body: Value,
}

impl Response {
    /// One line, which [`Self::parse`] reads.
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.status, self.body)
    }

    pub(super) fn parse(line: &str) -> io::Result<Self> {
        let (status, body) = line.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            status: status.parse().map_err(io::Error::other)?,
            body: serde_json::from_str(body)?,
        })
    }
}

/// A session to register with the daemon on this socket.
pub(super) struct Session<'command> {
    pub(super) socket: &'command str,
    pub(super) token: &'command str,
    pub(super) name: &'command str,
}

impl<'command> Session<'command> {
    /// Parses `SOCKET TOKEN NAME`; the name may contain blanks.
    pub(super) fn parse(text: &'command str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        Some(Self {
            socket: words.next()?,
            token: words.next()?,
            name: words.next()?,
        })
    }

    /// Starts an idle process, under this pid if one is given, and registers it.
    pub(super) fn start(&self, forker: &Forker, pid: Option<Pid>) -> io::Result<(u32, Response)> {
        let daemon = self.connect()?;
        let pid = forker.fork_still(pid)?;
        Ok((pid, self.register(daemon, pid, || Ok(()))?))
    }

    /// Registers a process, stops the daemon, kills the process and starts its successor under the same
    /// pid. When the daemon continues, the registration of `successor` and the hint of the death are both
    /// waiting. Both processes start within one clock tick, unless the machine is slow.
    pub(super) fn replace(
        &self,
        successor: &Self,
        forker: &Forker,
        daemon: u32,
    ) -> io::Result<(Pid, Response, Response)> {
        let (connection, next) = (self.connect()?, successor.connect()?);
        pass_ticks(1);
        let first_pid = forker.fork_still(None)?;
        let first = self.register(connection, first_pid, || Ok(()))?;
        stop(daemon)?;
        kill(first_pid)?;
        let pid = Pid::from_raw(first_pid.cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
        reap(pid)?;
        let started = forker.fork_still(Some(pid));
        if let Err(error) = started {
            signal(daemon, Signal::CONT)?;
            return Err(error);
        }
        let second = successor.register(next, first_pid, || signal(daemon, Signal::CONT))?;
        Ok((pid, first, second))
    }

    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        let daemon = UnixStream::connect(self.socket)?;
        daemon.set_read_timeout(Some(TIMEOUT))?;
        Ok(daemon)
    }

    /// `sent` runs between the request and the wait for its response.
    fn register(
        &self,
        mut daemon: UnixStream,
        pid: u32,
        sent: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Response> {
        let request = raw_http::registration(self.token, self.name, pid);
        daemon.write_all(request.as_bytes())?;
        sent()?;
        let mut response = String::new();
        daemon.read_to_string(&mut response)?;
        let (status, body) = raw_http::parse(&response).map_err(io::Error::other)?;
        Ok(Response {
            status,
            body: serde_json::from_str(body)?,
        })
    }
}

/// Returns when the process has stopped.
fn stop(pid: u32) -> io::Result<()> {
    signal(pid, Signal::STOP)?;
    loop {
        match stat_field(pid, 3)?.as_str() {
            "T" => return Ok(()),
            "Z" | "X" => return Err(io::ErrorKind::NotFound.into()),
            _ => std::thread::yield_now(),
        }
    }
}
