//! Two owners of one number, the second as soon after the first as can be. Between the two births
//! lies a registration with the daemon, and a tick of ten milliseconds is short where the machine is
//! emulated: so the fork server does it all by itself, on a connection that was made before.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Pid;
use serde_json::Value;

use super::commands::{pass_ticks, reap};
use super::kill;
use crate::sys::Forker;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Of the body, whatever number it names: the largest has seven digits, and blanks are no content.
const PID_WIDTH: usize = 7;

/// What is to be registered, and with whom.
pub(super) struct Registration<'order> {
    pub(super) socket: &'order str,
    pub(super) token: &'order str,
    pub(super) session: &'order str,
}

/// The first owner, and the registration's answer.
pub(super) struct First {
    pub(super) pid: Pid,
    pub(super) answer: Value,
}

impl Registration<'_> {
    /// Has a first owner be born with a tick, registered, killed, collected and replaced.
    pub(super) fn of_pid_reuse(&self, forker: &Forker, ticks: u32) -> io::Result<First> {
        let mut daemon = UnixStream::connect(self.socket)?;
        daemon.set_read_timeout(Some(TIMEOUT))?;
        pass_ticks(1);
        let number = forker.fork_still(None)?;
        daemon.write_all(self.request(number).as_bytes())?;
        let answer = read(&mut daemon)?;
        kill(number)?;
        let pid = Pid::from_raw(number.cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
        reap(pid)?;
        pass_ticks(ticks);
        forker.fork_still(Some(pid))?;
        let refused = || io::Error::other(answer.clone());
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(refused)?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(refused());
        }
        Ok(First {
            pid,
            answer: serde_json::from_str(body)?,
        })
    }

    fn request(&self, pid: u32) -> String {
        let Self { token, session, .. } = self;
        let body = format!(
            r#"{{"token":"{token}","session_id":"{session}","mesh":"test","display_name":"twin","pid":{pid:PID_WIDTH$}}}"#
        );
        format!(
            "POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// The answer, up to the end of its object: waiting for the end of the connection takes longer.
fn read(daemon: &mut UnixStream) -> io::Result<String> {
    let mut answer = Vec::new();
    let mut part = [0; 2_048];
    while !answer.ends_with(b"}") {
        match daemon.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => answer.extend_from_slice(&part[..length]),
        }
    }
    String::from_utf8(answer).map_err(io::Error::other)
}
