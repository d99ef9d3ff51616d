//! Two processes with one pid, the second as soon after the first as possible. A registration with the
//! daemon lies between their starts, and a tick of ten milliseconds is short on an emulated machine. So
//! the fork server does all of it, on a connection that it has opened before.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use super::commands::{pass_ticks, reap};
use super::pid_owners::Session;
use super::{PidReuse, kill};
use crate::raw_http;
use crate::sys::Forker;

impl Session {
    /// Starts a process just after a tick, registers it, kills and reaps it, and starts its successor
    /// under the same pid so many ticks later.
    pub(super) fn reuse_pid(&self, forker: &Forker, ticks: u32) -> io::Result<PidReuse> {
        let mut daemon = self.connect()?;
        pass_ticks(1);
        let pid = forker.fork_still(None)?;
        let request = raw_http::registration(&self.token, &self.name, pid);
        daemon.write_all(request.as_bytes())?;
        let response = read(&mut daemon)?;
        kill(pid)?;
        reap(pid)?;
        pass_ticks(ticks);
        forker.fork_still(Some(pid))?;
        match raw_http::parse(&response) {
            Ok((200, body)) => Ok(PidReuse {
                pid,
                ..serde_json::from_str(body)?
            }),
            _ => Err(io::Error::other(response)),
        }
    }
}

/// Reads the response up to the end of its object: waiting for the end of the connection takes longer.
fn read(daemon: &mut UnixStream) -> io::Result<String> {
    let mut response = Vec::new();
    let mut part = [0; 2_048];
    while !response.ends_with(b"}") {
        match daemon.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => response.extend_from_slice(&part[..length]),
        }
    }
    String::from_utf8(response).map_err(io::Error::other)
}
