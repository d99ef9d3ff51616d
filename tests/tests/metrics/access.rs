//! Who may read metrics, and what else the TCP listener serves: nothing.

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use reaper_tests::daemon::{Launch, TestDaemon, reaperd};
use reaper_tests::expect::skip;
use reaper_tests::raw_http::parse;
use reaper_tests::test_process::TestProcess;
use reaper_tests::user::as_user;
use reaper_tests::wait::{Deadline, TIMEOUT};

use crate::page::Page;
use crate::{metrics_port, over_tcp};

const ALICE: u32 = 2_001;
const BOB: u32 = 2_002;

/// Sends a request over the socket, and returns the response up to and with this text.
pub(crate) fn on_socket(daemon: &TestDaemon, request: &str, until: &str) -> String {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    let mut part = [0; 8 * 1024];
    while !response.contains(until) {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "{until:?} is not in {response}");
        response += str::from_utf8(&part[..count]).unwrap();
    }
    response
}

#[test]
fn tcp_serves_metrics_and_nothing_else() {
    let daemon = Launch::with(&["--metrics-listen", "0"]).start();
    let living = TestProcess::start();
    let token = daemon.register("a", living.pid());
    let port = metrics_port(&daemon);
    let response = over_tcp(port, "GET /metrics", "Accept: text/plain\r\n");
    let (status, text) = parse(&response).unwrap();
    assert_eq!(status, 200, "{response}");
    assert!(
        response.contains("content-type: text/plain; version=0.0.4"),
        "{response}"
    );
    let page = Page::parse(text.to_owned());
    assert_eq!(page.value("reaperd_sessions"), 1.0);
    assert!(
        page.all("reaperd_user_share_used").is_empty(),
        "users are shown"
    );
    assert!(!text.contains("uid="));

    let authorized = format!(
        "Authorization: ClaudeMesh-Session {}\r\n",
        token.reveal().as_str()
    );
    for (line, fields, expected, code) in [
        ("GET /v1/sessions", "", 404, "not_found"),
        ("GET /v1/sessions/me", authorized.as_str(), 404, "not_found"),
        (
            "DELETE /v1/sessions/me",
            authorized.as_str(),
            404,
            "not_found",
        ),
        ("POST /v1/sessions/register", "", 404, "not_found"),
        ("POST /metrics", "", 404, "not_found"),
        ("GET /metrics/", "", 404, "not_found"),
        (
            "GET /metrics",
            "Origin: http://localhost\r\n",
            403,
            "forbidden_origin",
        ),
        ("GET /metrics?token=x", "", 400, "token_in_query"),
        ("GET /metrics", "A:b\n", 400, "bare_line_feed"),
    ] {
        let response = over_tcp(port, line, fields);
        let (status, body) = parse(&response).unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (status, body["code"].as_str().unwrap()),
            (expected, code),
            "{line}"
        );
    }
    assert!(daemon.accepts(&token));
    let page = Page::of(&daemon);
    assert_eq!(
        page.value("reaperd_requests_total{route=\"metrics\",status=\"2xx\"}"),
        1.0
    );
    assert_eq!(
        page.value("reaperd_refusals_total{reason=\"forbidden_origin\"}"),
        1.0
    );
    daemon.stop();
}

#[test]
fn the_host_of_a_request_over_loopback_must_be_loopback() {
    let daemon = Launch::with(&["--metrics-listen", "0"]).start();
    let port = metrics_port(&daemon);
    let status = |host: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        parse(&response).unwrap().0
    };
    assert_eq!(status(&format!("127.0.0.1:{port}")), 200);
    assert_eq!(status("localhost"), 200);
    assert_eq!(status("evil.example"), 403);
    daemon.stop();
}

#[test]
fn connections_that_send_no_request_do_not_delay_those_that_do() {
    let daemon = Launch::with(&["--metrics-listen", "0"]).start();
    let port = metrics_port(&daemon);
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let scrape = |limit: Duration| {
        let clock = Deadline::after(TIMEOUT);
        let response = over_tcp(port, "GET /metrics", "");
        assert_eq!(parse(&response).unwrap().0, 200);
        let took = clock.elapsed();
        assert!(took < limit, "{took:?}");
    };
    let mut idle: Vec<_> = (0..3).map(|_| connect()).collect();
    idle[0].write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    // There are more places than these have. Half the time of an idle one.
    scrape(Duration::from_millis(500));
    for mut stream in idle {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
    }
    // Served once those before it have been closed, all within a second at a time.
    let _idle: Vec<_> = (0..12).map(|_| connect()).collect();
    scrape(Duration::from_secs(8));
    daemon.stop();
}

#[test]
fn another_address_than_loopback_must_be_named_and_is_logged() {
    let daemon = Launch::with(&["--metrics-listen", "0.0.0.0:0"]).start();
    let port = metrics_port(&daemon);
    let response = over_tcp(port, "GET /metrics", "");
    assert_eq!(parse(&response).unwrap().0, 200);
    let log = daemon.log();
    assert!(
        log.contains("every host that reaches this address can read them"),
        "{log}"
    );
    daemon.stop();

    let daemon = Launch::with(&["--metrics-listen", "0"]).start();
    let port = metrics_port(&daemon).to_string();
    assert!(!daemon.log().contains("every host"), "{}", daemon.log());
    let socket = daemon.socket().with_file_name("other.sock");
    let second = Command::new(reaperd())
        .args(["daemon", "--metrics-listen", &port, "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("cannot serve metrics on 127.0.0.1:"),
        "{complaint}"
    );
    assert!(complaint.contains("--metrics-listen"), "{complaint}");
    daemon.stop();
}

#[test]
fn every_served_user_reads_sums_and_root_alone_reads_users() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become several users");
    }
    let daemon = Launch::with(&["--allow-uid", "2001", "--register-policy", "any"]).start();
    let folder = daemon.socket().parent().unwrap().to_owned();
    std::fs::set_permissions(&folder, Permissions::from_mode(0o711)).unwrap();
    let living = TestProcess::start();
    daemon.register("a", living.pid());
    let client = daemon.client().with_server_uid(0);
    let of_alice = as_user(ALICE, || Page::read(&client));
    assert_eq!(of_alice.value("reaperd_sessions"), 1.0);
    assert!(of_alice.all("reaperd_user_share_used").is_empty());
    assert!(!of_alice.text.contains("uid="));
    let of_root = Page::of(&daemon);
    let sessions = "reaperd_user_share_used{resource=\"sessions\",uid=\"0\"}";
    assert_eq!(of_root.value(sessions), 1.0);
    // Where the system lets other users connect, they get an error.
    std::fs::set_permissions(daemon.socket(), Permissions::from_mode(0o666)).unwrap();
    let refused = "reaperd_refusals_total{reason=\"user_not_allowed\"}";
    assert_eq!(of_root.value(refused), 0.0);
    for count in [1.0, 2.0] {
        assert!(on_socket_as(BOB, &daemon).contains("user_not_allowed"));
        assert_eq!(Page::of(&daemon).value(refused), count);
    }
    daemon.stop();
}

/// What a user gets that connects and sends nothing.
fn on_socket_as(uid: u32, daemon: &TestDaemon) -> String {
    as_user(uid, || {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    })
}
