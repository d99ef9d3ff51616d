//! Processes under chosen pids. The fork server registers them itself: it is quick enough for two
//! processes within one clock tick, and it may be in a pid namespace that the test is not in.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reaper_registry::Token;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commands::{pass_ticks, reap};
use super::{kill, signal};
use crate::raw_http;
use crate::sys::Forker;
use crate::test_process::stat_field;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The daemon's response to a registration.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Response {
    pub status: u16,
    pub body: Value,
}

/// A session to register with the daemon on this socket.
#[derive(Deserialize, Serialize)]
pub(super) struct Session {
    socket: PathBuf,
    pub(super) token: String,
    pub(super) name: String,
}

impl Session {
    pub(super) fn new(socket: &Path, token: &Token, name: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            token: token.reveal().as_str().to_owned(),
            name: name.to_owned(),
        }
    }

    /// Starts an idle process, under this pid if one is given, and registers it.
    pub(super) fn start(&self, forker: &Forker, pid: Option<u32>) -> io::Result<(u32, Response)> {
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
    ) -> io::Result<(u32, [Response; 2])> {
        let (connection, next) = (self.connect()?, successor.connect()?);
        pass_ticks(1);
        let pid = forker.fork_still(None)?;
        let first = self.register(connection, pid, || Ok(()))?;
        stop(daemon)?;
        kill(pid)?;
        reap(pid)?;
        let started = forker.fork_still(Some(pid));
        if let Err(error) = started {
            signal(daemon, Signal::CONT)?;
            return Err(error);
        }
        let second = successor.register(next, pid, || signal(daemon, Signal::CONT))?;
        Ok((pid, [first, second]))
    }

    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        let daemon = UnixStream::connect(&self.socket)?;
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
        let request = raw_http::registration(&self.token, &self.name, pid);
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
