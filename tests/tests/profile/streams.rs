//! Streams of events for tokens that the daemon does not know.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::TIMEOUT;

use crate::{error, over_socket, profile};

/// Opens a stream with this token, and waits for its first bytes.
fn open(daemon: &TestDaemon, token: &str, query: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let request = format!(
        "GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 1.1\r\nAuthorization: \
         ClaudeMesh-Session {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"retry: 1000\n\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(
        head.starts_with("HTTP/1.") && head.contains(" 200 "),
        "{head}"
    );
    stream
}

#[test]
fn an_unknown_token_gets_a_stream_that_shows_nothing_and_ends_with_the_daemon() {
    let mut daemon = profile(&[]).start();
    let tokens = ["0".repeat(64), "not a token".to_owned()];
    let mut silent: Vec<_> = tokens
        .iter()
        .map(|token| open(&daemon, token, ""))
        .chain([open(&daemon, &tokens[0], "?snapshot=1")])
        .collect();
    let mut seen = daemon.events();
    let living = TestProcess::start();
    daemon.register("secret", living.pid());
    drop(living);
    seen.removal_of("secret");
    // They go on in a successor.
    daemon.hand_over_to(&profile(&["--replace"]));
    let living = TestProcess::start();
    daemon.register("also-secret", living.pid());
    daemon.signal(rustix::process::Signal::TERM);
    daemon.stopped();
    for stream in &mut silent {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "a silent stream shows something");
    }
}

#[test]
fn without_the_profile_an_unknown_token_is_an_error() {
    let daemon = Launch::default().start();
    let fields = format!("Authorization: ClaudeMesh-Session {}\r\n", "0".repeat(64));
    let answer = over_socket(&daemon, "GET /v1/events", &fields);
    assert_eq!(error(&answer), (401, "no session token"));
}
