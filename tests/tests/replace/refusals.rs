//! Who may not replace a daemon, and what cannot be replaced.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use reaper_tests::daemon::{Launch, TestDaemon, private_folder, reaperd};
use reaper_tests::wait::eventually_some;
use reaper_tests::{expect, raw_http};
use serde_json::json;

use super::client::{Connection, post};
use super::successor;

/// A user of these tests. It needs no account.
const OTHER: &str = "2001";
const NOT_PERMITTED: i32 = 5;
const PROTOCOL: i32 = 7;

#[test]
fn without_a_running_daemon_it_starts_as_usual() {
    let daemon = successor().start();
    let mut connection = Connection::open(&daemon.socket()).unwrap();
    connection.served_by();
    assert!(!daemon.log().contains("WARN"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_format_that_the_successor_does_not_read_is_refused() {
    let daemon = TestDaemon::start(&[]);
    let mut connection = Connection::open(&daemon.socket()).unwrap();
    for asked in [
        json!({"format": 2, "tableFormat": u32::MAX}),
        json!({"format": 1, "tableFormat": 0}),
    ] {
        connection
            .send(&post("/v1/daemon/replace", &asked.to_string()))
            .unwrap();
        let (status, problem) = connection.response().unwrap();
        assert_eq!(
            (status, &problem["code"]),
            (409, &json!("other_format")),
            "{asked}"
        );
    }
    connection.send(&post("/v1/daemon/replace", "{}")).unwrap();
    assert_eq!(connection.response().unwrap().0, 400);
    connection.served_by();
    daemon.stop();
}

#[test]
fn another_user_may_not_replace_the_daemon() {
    if !expect::root_with(&["setpriv"]) {
        return;
    }
    let daemon = TestDaemon::start(&["--allow-uid", OTHER]);
    // The user reaches the socket, which has an access list, through its folder.
    let folder = daemon.socket().parent().unwrap().to_owned();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups"])
        .arg(reaperd())
        .args(["daemon", "--replace", "--socket"])
        .arg(daemon.socket())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(NOT_PERMITTED), "{text}");
    assert!(text.contains("may replace this daemon"), "{text}");
    let mut connection = Connection::open(&daemon.socket()).unwrap();
    assert_eq!(connection.served_by(), u64::from(daemon.pid()));
    daemon.stop();
}

#[test]
fn a_daemon_without_this_route_is_left_alone_with_a_sentence() {
    let folder = private_folder();
    let socket = folder.path().join("s.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let old = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4_096];
        assert_ne!(stream.read(&mut request).unwrap(), 0);
        let body = json!({"code": "not_found", "error": "not found", "detail": ""}).to_string();
        let response = format!(
            "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(response.as_bytes()).unwrap();
        assert_eq!(
            stream.read(&mut request).unwrap(),
            0,
            "it sends nothing more"
        );
    });
    let output = Command::new(reaperd())
        .args(["daemon", "--replace", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(PROTOCOL), "{text}");
    assert!(text.contains("too old to be replaced"), "{text}");
    old.join().unwrap();
}

#[test]
fn a_successor_that_cannot_start_gives_its_reason_to_both_logs() {
    let daemon = TestDaemon::start(&[]);
    let launch = Launch::with(&["--replace", "--sources", "sweep", "--require", "pidfd"]);
    let mut next = daemon.spawn_beside(&launch);
    let ended = eventually_some("it ends", || next.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    let log = daemon.log();
    let reason = "the successor cannot start: the required source pidfd does not work here";
    assert!(log.contains(reason), "{log}");
    let request = raw_http::request("GET /v1/version", "", "");
    let mut connection = Connection::open(&daemon.socket()).unwrap();
    connection.send(&request).unwrap();
    assert_eq!(connection.response().unwrap().0, 200);
    daemon.stop();
}
