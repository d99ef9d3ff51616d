//! A raw client with a kept connection, for requests whose parts are sent at chosen times.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Longer than a hand-over may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A kept connection.
pub(crate) struct Connection {
    stream: UnixStream,
    /// What has arrived and belongs to later responses.
    rest: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Self {
            stream,
            rest: Vec::new(),
        })
    }

    pub(crate) fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    /// Sends a request without a body, and reads the response.
    pub(crate) fn get(&mut self, target: &str, token: Option<&str>) -> io::Result<(u16, Value)> {
        self.send(&get(target, token))?;
        self.response()
    }

    /// Registers a session.
    pub(crate) fn register(&mut self, token: &str, id: &str, pid: u32) -> io::Result<u16> {
        let body = serde_json::json!({
            "token": token, "session_id": id, "mesh": "test", "display_name": id, "pid": pid,
        });
        self.send(&post("/v1/sessions/register", &body.to_string()))?;
        self.response().map(|(status, _)| status)
    }

    /// Reads one whole response, which has a length.
    pub(crate) fn response(&mut self) -> io::Result<(u16, Value)> {
        let head = loop {
            if let Some(end) = self.rest.windows(4).position(|it| it == b"\r\n\r\n") {
                break end + 4;
            }
            self.more()?;
        };
        let text = String::from_utf8_lossy(&self.rest[..head]).to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse::<usize>().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        while self.rest.len() < head + length {
            self.more()?;
        }
        let body = serde_json::from_slice(&self.rest[head..head + length])?;
        self.rest.drain(..head + length);
        let status = text[9..12].parse().map_err(io::Error::other)?;
        Ok((status, body))
    }

    /// Reads until this text has arrived.
    pub(crate) fn until(&mut self, text: &str) -> io::Result<()> {
        while !String::from_utf8_lossy(&self.rest).contains(text) {
            self.more()?;
        }
        Ok(())
    }

    /// Reads everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> String {
        while self.more().is_ok() {}
        String::from_utf8_lossy(&self.rest).into_owned()
    }

    fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 4_096];
        let length = self.stream.read(&mut piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.rest.extend_from_slice(&piece[..length]);
        Ok(())
    }

    /// The pid of the worker that serves it.
    pub(crate) fn served_by(&mut self) -> u64 {
        let (status, health) = self.get("/v1/health", None).unwrap();
        assert_eq!(status, 200);
        health["pid"].as_u64().unwrap()
    }
}

pub(crate) fn get(target: &str, token: Option<&str>) -> String {
    let token = token.map_or_else(String::new, |token| {
        format!("Authorization: ClaudeMesh-Session {token}\r\n")
    });
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n")
}

pub(crate) fn post(target: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
}
