//! A raw client of the daemon, whose user is that of the thread which connects.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use reaper_tests::raw_http;
use serde_json::{Value, json};

/// Longer than any response takes that the tests wait for.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A kept connection.
pub(crate) struct Connection(UnixStream);

impl Connection {
    pub(crate) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Self(stream))
    }

    /// Sends a request for `target` without waiting for the response.
    pub(crate) fn send(&mut self, target: &str) -> io::Result<()> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.write_all(request.as_bytes())
    }

    /// Reads the status of the response that was begun, and no more than its first bytes.
    pub(crate) fn status(&mut self) -> io::Result<u16> {
        let mut line = [0; 12];
        self.0.read_exact(&mut line)?;
        let status = std::str::from_utf8(&line[9..]).map_err(io::Error::other)?;
        status.parse().map_err(io::Error::other)
    }

    /// Looks up the session with this token; returns the status.
    pub(crate) fn get_as(&mut self, token: &str, target: &str) -> io::Result<u16> {
        self.exchange(&format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\n\
             Authorization: ClaudeMesh-Session {token}\r\n\r\n"
        ))
    }

    /// Registers a session as large as allowed; returns the status.
    pub(crate) fn register_fat(&mut self, number: usize, pid: u32) -> io::Result<u16> {
        let body = json!({
            "token": format!("{number:064x}"),
            "session_id": format!("{number}-{}", "s".repeat(100)),
            "mesh": "m".repeat(128),
            "display_name": "d".repeat(128),
            "pid": pid,
            "cwd": format!("/{}", "x".repeat(4_095)),
            "groups": vec!["g".repeat(64); 64],
        });
        let body = body.to_string();
        let length = body.len();
        self.exchange(&format!(
            "POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// Sends a request and reads the whole response, which has a length; returns the status.
    fn exchange(&mut self, request: &str) -> io::Result<u16> {
        self.0.write_all(request.as_bytes())?;
        let mut response = Vec::new();
        let head = loop {
            let mut piece = [0; 4_096];
            let length = self.0.read(&mut piece)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            response.extend_from_slice(&piece[..length]);
            if let Some(end) = response.windows(4).position(|it| it == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = String::from_utf8_lossy(&response[..head]).to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse::<usize>().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let rest = (head + length).saturating_sub(response.len());
        self.0.read_exact(&mut vec![0; rest])?;
        text[9..12].parse().map_err(io::Error::other)
    }
}

/// Sends one request on a connection of its own; returns status and body.
pub(crate) fn one_request(socket: &Path, request: &str) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (status, body) = raw_http::parse(&response).map_err(io::Error::other)?;
    Ok((status, body.to_owned()))
}

/// Registers a session; its response must be a success.
pub(crate) fn register(socket: &Path, token: &str, id: &str, pid: u32) -> Value {
    let request = raw_http::registration(token, id, pid);
    let (status, body) = one_request(socket, &request).unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}
