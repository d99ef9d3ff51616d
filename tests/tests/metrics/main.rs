//! The metrics of the daemon: their values, their names, who may read them, and what a real Prometheus
//! makes of them.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "steps of tests")]
#![expect(clippy::float_cmp, reason = "counts, which are exact")]

mod access;
mod alerts;
mod counters;
mod faults;
mod file;
mod names;
mod page;
mod prometheus;
mod restarts;
mod tools;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::raw_http::request;
use reaper_tests::wait::{TIMEOUT, eventually_some};

/// The root of this repository.
fn repository() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap().to_owned()
}

/// The port on which the daemon serves metrics over TCP, from its log.
fn metrics_port(daemon: &TestDaemon) -> u16 {
    eventually_some("the daemon serves metrics over TCP", || {
        port_in(&daemon.log(), "metrics on http://")
    })
}

/// The port behind `words`, an address and a colon.
fn port_in(log: &str, words: &str) -> Option<u16> {
    let (_, address) = log.split_once(words)?;
    let end = address.find(|c: char| c.is_whitespace() || c == '/')?;
    let (_, port) = address[..end].rsplit_once(':')?;
    port.trim_end_matches('"').parse().ok()
}

/// Sends a request over TCP and returns the whole response.
fn over_tcp(port: u16, line: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
        .write_all(request(line, fields, "").as_bytes())
        .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}
