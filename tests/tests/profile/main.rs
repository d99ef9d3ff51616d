//! The API over TCP (`--tcp`), and the profile for clients of the claudemesh daemon.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod answers;
mod bearer;
mod client;
mod files;
mod rivals;
mod streams;
mod tcp;

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::wait::{TIMEOUT, eventually_some};
use serde_json::Value;

/// A port that the system chooses.
const ANY_PORT: [&str; 2] = ["--tcp", "127.0.0.1:0"];

/// A daemon that also listens on TCP.
fn with_tcp(more: &[&str]) -> TestDaemon {
    Launch::with(&[&ANY_PORT, more].concat()).start()
}

/// A daemon of the profile, without TCP.
fn profile(more: &[&str]) -> Launch {
    Launch::with(&[&["--profile", "claudemesh", "--no-tcp"], more].concat())
}

/// A file beside the socket.
fn beside_socket(daemon: &TestDaemon, name: &str) -> PathBuf {
    daemon.socket().with_file_name(name)
}

/// The address of the last daemon on this log that listens on TCP.
fn address(daemon: &TestDaemon) -> String {
    eventually_some("the daemon listens on TCP", || {
        let log = daemon.log();
        let (_, address) = log.rsplit_once("the API is also served on http://")?;
        address
            .split_once(char::is_whitespace)
            .map(|(address, _)| address.trim_end_matches('"').to_owned())
    })
}

/// What the daemon's user presents.
fn bearer(daemon: &TestDaemon) -> String {
    let text = fs::read_to_string(beside_socket(daemon, "local-token")).unwrap();
    text.trim().to_owned()
}

/// The field that presents it.
fn presenting(bearer: &str) -> String {
    format!("Authorization: Bearer {bearer}\r\n")
}

/// Status and body of a response.
type Answer = (u16, Value);

/// Sends a request with exactly these fields over TCP, and reads until the end.
fn over_tcp(address: &str, line: &str, fields: &str) -> Answer {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    exchange(stream, line, fields, "")
}

/// Sends a request over the socket.
fn over_socket(daemon: &TestDaemon, line: &str, fields: &str) -> Answer {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    exchange(stream, line, &format!("Host: localhost\r\n{fields}"), "")
}

fn exchange(
    mut stream: impl std::io::Read + std::io::Write,
    line: &str,
    fields: &str,
    body: &str,
) -> Answer {
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (status, body) = reaper_tests::raw_http::parse(&response).unwrap();
    let body = serde_json::from_str(body);
    (
        status,
        body.unwrap_or_else(|_| panic!("{line}: {response}")),
    )
}

/// The text that clients of the claudemesh daemon read.
fn error(answer: &Answer) -> (u16, &str) {
    (answer.0, answer.1["error"].as_str().unwrap_or_default())
}
