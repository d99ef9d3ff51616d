//! The HTTP server, tested with raw bytes on a real socket, which no client library would send or
//! show.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

#[path = "http/canary.rs"]
mod canary;
#[cfg(target_os = "linux")]
#[path = "http/containers.rs"]
mod containers;
#[path = "http/document.rs"]
mod document;
#[path = "http/ended.rs"]
mod ended;
#[path = "http/fixture.rs"]
mod fixture;
#[path = "http/keep_alive.rs"]
mod keep_alive;
#[path = "http/labels.rs"]
mod labels;
#[path = "http/members.rs"]
mod members;
#[cfg(target_os = "linux")]
#[path = "http/passed_on.rs"]
mod passed_on;
#[path = "http/sessions.rs"]
mod sessions;
#[cfg(target_os = "linux")]
#[path = "http/shares.rs"]
mod shares;
#[path = "http/streams.rs"]
mod streams;
#[cfg(target_os = "linux")]
#[path = "http/unread.rs"]
mod unread;
#[cfg(target_os = "linux")]
#[path = "http/users.rs"]
mod users;

use std::io::{Read as _, Write as _};
use std::process::Command;

use serde_json::json;

use fixture::{Daemon, Events, TestProcess, eventually, session_header};

#[test]
fn an_ambiguously_framed_request_ends_the_connection() {
    let daemon = Daemon::start();
    let test_process = TestProcess::start();
    let second = format!(
        "DELETE /v1/sessions/{:064x} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        1
    );
    for (head, code) in [
        (
            "Host: l\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "both_length_fields",
        ),
        (
            "Host: l\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n",
            "two_content_lengths",
        ),
        (
            "Host: l\r\nContent-Length: +0\r\n\r\n",
            "bad_content_length",
        ),
        (
            "Host: l\r\nContent-Length: 0, 0\r\n\r\n",
            "bad_content_length",
        ),
        (
            "Host: l\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "bad_transfer_encoding",
        ),
        ("Host: l\r\nX: a\r\n folded\r\n\r\n", "folded_line"),
        ("Host: l\n\n", "bare_line_feed"),
        ("Host: l\r\nContent-Length : 0\r\n\r\n", "bad_field_name"),
        ("\r\n", "bad_host_field"),
        ("Host: l\r\nHost: l\r\n\r\n", "bad_host_field"),
        (
            "Host: l\r\nReaperd-Refusal: bare_line_feed\r\n\r\n",
            "bad_field_name",
        ),
    ] {
        assert_eq!(daemon.register(1, "s", test_process.pid()).0, 200);
        let response = daemon.raw(format!("POST /v1/health HTTP/1.1\r\n{head}{second}"));
        assert!(
            response.starts_with("HTTP/1.1 400 "),
            "{head:?}: {response}"
        );
        assert!(
            response.contains(&format!("\"code\":\"{code}\"")),
            "{head:?}: {response}"
        );
        assert_eq!(
            response.matches("content-type: ").count(),
            1,
            "{head:?}: {response}"
        );
        assert_eq!(daemon.listed(), ["s"]);
    }
    daemon.stop();
}

#[test]
fn an_oversized_request_gets_a_readable_refusal() {
    let daemon = Daemon::start();
    let post = "POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\n";
    let big = "x".repeat(300_000);
    let response = daemon.raw(format!("{post}Content-Length: 300000\r\n\r\n{big}"));
    assert!(response.starts_with("HTTP/1.1 413 ") && response.contains("payload_too_large"));
    let response = daemon.raw(format!(
        "{post}Transfer-Encoding: chunked\r\n\r\n493e0\r\n{big}\r\n0\r\n\r\n"
    ));
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    let response = daemon.raw(format!("{post}X: {big}\r\n\r\n"));
    assert!(response.starts_with("HTTP/1.1 431 "), "{response}");

    let (status, problem) =
        daemon.request("POST", "/v1/sessions/register", "", &" ".repeat(65_536));
    assert_eq!((status, &problem["error"]), (400, &json!("missing body")));
    daemon.stop();
}

#[test]
fn a_body_may_be_chunked_and_expect_100_continue() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect();
    stream
        .write_all(
            b"POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
              Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    let mut part = [0; 25];
    stream.read_exact(&mut part).unwrap();
    assert_eq!(&part, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"2\r\n[]\r\n0\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(
        response.contains("token must be 64 hex chars"),
        "{response}"
    );
    let response = daemon.raw(
        "POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\n\
         Transfer-Encoding: chunked\r\n\r\n2;x\r\n[]\r\n0\r\n\r\n",
    );
    assert!(
        response.starts_with("HTTP/1.1 400 ") && response.contains("broken_body"),
        "{response}"
    );
    daemon.stop();
}

#[test]
fn an_unusable_pid_cannot_be_registered() {
    let daemon = Daemon::start();
    let mut dead = Command::new("true").spawn().unwrap();
    let dead_pid = dead.id();
    dead.wait().unwrap();
    let unreaped = Command::new("true").spawn().unwrap();
    eventually("the process is a zombie", || {
        std::fs::read_to_string(format!("/proc/{}/stat", unreaped.id()))
            .unwrap()
            .contains(") Z ")
    });
    let (tid_sender, tid) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tid_sender
            .send(
                rustix::thread::gettid()
                    .as_raw_nonzero()
                    .get()
                    .unsigned_abs(),
            )
            .unwrap();
        stopped.recv().unwrap();
    });
    for (pid, code) in [
        (dead_pid, "process_gone"),
        (unreaped.id(), "process_gone"),
        (tid.recv().unwrap(), "thread_id"),
        (std::process::id(), "own_pid"),
        (0, "invalid_pid"),
    ] {
        let (status, problem) = daemon.register(1, "s", pid);
        assert_eq!((status, &problem["code"]), (422, &json!(code)), "{problem}");
        assert_eq!(problem["field"], "pid");
    }
    stop.send(()).unwrap();
    thread.join().unwrap();
    assert_eq!(daemon.get("/v1/sessions").1, json!({"sessions": []}));
    assert_eq!(daemon.get("/v1/sources").1["processes"], 0);
    drop(unreaped.wait_with_output());
    daemon.stop();
}

#[test]
fn a_token_resolves_until_its_process_dies_and_then_gets_the_cause() {
    let daemon = Daemon::start();
    let mut events = Events::open(&daemon, "/v1/events", "");
    let test_process = TestProcess::start();
    let (status, response) = daemon.register(0xa, "s", test_process.pid());
    assert_eq!((status, &response["identity"]), (200, &json!("pidfd")));
    let me = daemon.me(0xa);
    assert_eq!((me.0, &me.1["session"]["sessionId"]), (200, &json!("s")));
    drop(test_process);
    events.until("\"cause\":\"exited\"");
    let (status, problem) = daemon.me(0xa);
    assert_eq!((status, &problem["code"]), (401, &json!("session_gone")));
    assert_eq!(
        (&problem["cause"], &problem["error"]),
        (&json!("exited"), &json!("no session token"))
    );
    for (fields, code) in [
        (session_header(0xb), "unknown_session"),
        (
            "Authorization: ClaudeMesh-Session x\r\n".to_owned(),
            "malformed_session_token",
        ),
    ] {
        for target in ["/v1/sessions/me", "/v1/events", "/v1/peers", "/v1/inbox"] {
            let (status, problem) = daemon.request("GET", target, &fields, "");
            assert_eq!((status, &problem["code"]), (401, &json!(code)), "{target}");
        }
    }
    assert_eq!(daemon.get("/v1/sessions/me").1["code"], "no_session_token");
    assert_eq!(daemon.get("/v1/peers").1["error"], "broker not initialised");
    assert_eq!(daemon.get("/v1/inbox").0, 503);
    daemon.stop();
}

#[test]
fn a_session_can_be_deregistered_by_token_by_header_and_by_id() {
    let daemon = Daemon::start();
    let test_process = TestProcess::start();
    let delete = |target: &str, fields: &str| daemon.request("DELETE", target, fields, "");
    let name = "a/b c";
    let by_token = format!("/v1/sessions/{:064X}", 0xab);
    daemon.register(0xab, name, test_process.pid());
    let (status, response) = delete(&by_token, "");
    assert_eq!(
        (status, response),
        (200, json!({"ok": true, "token_prefix": "00000000"}))
    );
    let (status, problem) = delete(&by_token, "");
    assert_eq!((status, &problem["ok"]), (404, &json!(false)));
    assert_eq!(
        delete("/v1/sessions/nonsense", "").1["error"],
        "invalid token"
    );

    daemon.register(0xab, name, test_process.pid());
    assert_eq!(delete("/v1/sessions/me", &session_header(0xab)).0, 200);
    assert_eq!(
        delete("/v1/sessions/me", &session_header(0xab)).1["cause"],
        "requested"
    );

    daemon.register(0xab, name, test_process.pid());
    assert_eq!(delete("/v1/sessions/by-id/a%2Fb%20c", "").0, 200);
    assert_eq!(delete("/v1/sessions/by-id/a%2Fb%20c", "").0, 404);
    assert_eq!(delete("/v1/sessions/by-id/%zz", "").0, 400);
    assert_eq!(delete("/v1/sessions/", "").0, 404);
    daemon.stop();
}

#[test]
fn a_full_registry_refuses_new_sessions_and_allows_replacing() {
    let daemon = Daemon::with(|options| options.max_sessions = 2);
    let test_process = TestProcess::start();
    for token in 1..=2 {
        let (status, _) = daemon.register(token, &token.to_string(), test_process.pid());
        assert_eq!(status, 200);
    }
    let (status, problem) = daemon.register(3, "3", test_process.pid());
    assert_eq!(
        (status, &problem["code"]),
        (429, &json!("too_many_sessions"))
    );
    assert_eq!(
        daemon.register(1, "1", test_process.pid()).0,
        200,
        "a replacement does not count"
    );
    assert_eq!(daemon.get("/v1/sources").1["processes"], 1);
    daemon.stop();
}
