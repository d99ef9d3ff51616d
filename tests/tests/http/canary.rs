//! Known secrets, sent on every route to a daemon that logs everything, are in no output.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use reaper_tests::canary::Canary;
use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::raw_http;

use super::fixture::{TestProcess, eventually};

/// Every route, and some paths that are none. `TOKEN` is the token.
const LINES: &[&str] = &[
    "GET /v1/sessions/me",
    "GET /v1/sessions",
    "GET /v1/sessions?verbose=1",
    "GET /v1/sources",
    "GET /v1/health",
    "GET /v1/version",
    "GET /v1/metrics",
    "GET /v1/peers",
    "POST /v1/send",
    "GET /v1/sessions/me?token=TOKEN",
    "GET /v1/sessions/TOKEN",
    "GET /TOKEN",
    "DELETE /v1/sessions/TOKEN0",
    "DELETE /v1/sessions/by-id/TOKENx",
    "GET /v1/events?session=x&event=TOKEN",
    "BREW TOKEN",
    "DELETE /v1/sessions/me",
    "DELETE /v1/sessions/TOKEN",
];

/// Sends bytes and returns what comes until the connection is closed.
fn exchange(daemon: &TestDaemon, request: &str) -> String {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

#[test]
fn known_secrets_are_in_no_log_response_or_event() {
    let daemon = Launch::with(&[])
        .through(&["env", "RUST_LOG=trace"])
        .start();
    let canary = Canary::new();
    let token = canary.token();
    let mut process = TestProcess::start();
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream
        .write_all(b"GET /v1/events?snapshot=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let register = |body: &str| {
        exchange(
            &daemon,
            &raw_http::request("POST /v1/sessions/register", "", body),
        )
    };
    let body = canary.registration("canary", process.pid());
    let mut seen = register(&body.to_string());
    assert!(seen.contains(" 200 "), "{seen}");
    for change in [
        |body: &str| body.replace("\"pid\":", "\"pid\":\"x\",\"pid\":"),
        |body: &str| body.replace("\"token\":", "\"token\":[],\"cwd\":"),
        |body: &str| body.replace("session_secret_key", "session_pubkey"),
        |body: &str| body.replace('}', ""),
        |body: &str| body.replace("\"mesh\":\"test\"", "\"mesh\":7"),
    ] {
        seen += &register(&change(&body.to_string()));
    }
    for scheme in ["ClaudeMesh-Session ", "Bearer ", ""] {
        let field = format!("Authorization: {scheme}{token}\r\n");
        for line in LINES {
            seen += &exchange(
                &daemon,
                &raw_http::request(&line.replace("TOKEN", &token), &field, ""),
            );
        }
        let again = register(&body.to_string());
        assert!(again.contains(" 200 "), "{again}");
    }
    process.kill();
    eventually("the session is removed", || !daemon.lists("canary"));
    daemon.signal(rustix::process::Signal::TERM);
    stream.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("session_deregistered"), "{seen}");
    let log = daemon.log();
    assert!(log.contains("DEBUG"), "{log}");
    seen += &log;
    assert_eq!(canary.found_in(&seen), [""; 0], "{seen}");
    daemon.stopped();
}
