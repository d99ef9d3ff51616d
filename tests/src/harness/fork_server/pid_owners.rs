//! Processes under chosen pids, registered by the fork server itself: it is there before the daemon can
//! have looked, and it may be in a pid namespace that the test is not in.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::commands::{pass_ticks, reap};
use super::{kill, signal};
use crate::sys::Forker;
use crate::test_process::stat_field;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The daemon's answer to a registration.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
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

/// What is to be registered, and with whom.
pub(super) struct Session<'order> {
    pub(super) socket: &'order str,
    pub(super) token: &'order str,
    pub(super) name: &'order str,
}

impl Session<'_> {
    /// Starts an idle process, under this pid if one is given, and registers it.
    pub(super) fn start(&self, forker: &Forker, pid: Option<Pid>) -> io::Result<(u32, Answer)> {
        let daemon = self.connect()?;
        let pid = forker.fork_still(pid)?;
        Ok((pid, self.register(daemon, pid, || Ok(()))?))
    }

    /// Registers a process, stops the daemon, ends the process and gives its pid to `successor`,
    /// whose registration waits for the daemon when it is continued, as does the news of the death.
    /// Both processes start within one clock tick, unless the machine is slow.
    pub(super) fn replace(
        &self,
        successor: &Self,
        forker: &Forker,
        daemon: u32,
    ) -> io::Result<(Pid, Answer, Answer)> {
        let (connection, next) = (self.connect()?, successor.connect()?);
        pass_ticks(1);
        let number = forker.fork_still(None)?;
        let first = self.register(connection, number, || Ok(()))?;
        stop(daemon)?;
        kill(number)?;
        let pid = Pid::from_raw(number.cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
        reap(pid)?;
        let started = forker.fork_still(Some(pid));
        if let Err(error) = started {
            signal(daemon, Signal::CONT)?;
            return Err(error);
        }
        let second = successor.register(next, number, || signal(daemon, Signal::CONT))?;
        Ok((pid, first, second))
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let daemon = UnixStream::connect(self.socket)?;
        daemon.set_read_timeout(Some(TIMEOUT))?;
        Ok(daemon)
    }

    /// `sent` runs between the request and the wait for its answer.
    fn register(
        &self,
        mut daemon: UnixStream,
        pid: u32,
        sent: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Answer> {
        let body = json!({
            "token": self.token, "session_id": self.name, "mesh": "test",
            "display_name": self.name, "pid": pid,
        })
        .to_string();
        let request = format!(
            "POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        daemon.write_all(request.as_bytes())?;
        sent()?;
        let mut answer = String::new();
        daemon.read_to_string(&mut answer)?;
        let nonsense = || io::Error::other(answer.clone());
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(nonsense)?;
        let status = head.split(' ').nth(1).ok_or_else(nonsense)?;
        Answer::parse(&format!("{status} {body}"))
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
