//! The API over TCP: its routes, the clients that may use it, and its port after the end of a worker or a daemon.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use reaper_tests::daemon::{Launch, TestDaemon, reaperd};
use reaper_tests::expect::skip;
use reaper_tests::test_process::TestProcess;
use reaper_tests::user::UserProcess;
use reaper_tests::wait::{TIMEOUT, eventually};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    ANY_PORT, address, bearer, beside_socket, error, exchange, over_socket, over_tcp, presenting,
    with_tcp,
};

const LOCAL: &str = "Host: localhost\r\n";
const MISSING: (u16, &str) = (401, "missing bearer token");
const INVALID: (u16, &str) = (401, "invalid bearer token");

#[test]
fn every_route_but_the_proof_needs_the_bearer() {
    let daemon = with_tcp(&[]);
    let (address, right) = (address(&daemon), bearer(&daemon));
    for line in [
        "GET /v1/health",
        "GET /v1/version",
        "GET /v1/sessions",
        "GET /v1/sessions/me",
        "POST /v1/sessions/register",
        "DELETE /v1/sessions/me",
        "GET /v1/events",
        "GET /metrics",
        "GET /no/such/path",
        "POST /v1/proof",
    ] {
        assert_eq!(error(&over_tcp(&address, line, LOCAL)), MISSING, "{line}");
    }
    let version = |authorization: &str| {
        let fields = format!("{LOCAL}Authorization: {authorization}\r\n");
        over_tcp(&address, "GET /v1/version", &fields)
    };
    for other in [
        format!("bearer {right}"),
        format!("Basic {right}"),
        right.clone(),
        "Bearer".to_owned(),
    ] {
        assert_eq!(error(&version(&other)), MISSING, "{other}");
    }
    for wrong in [
        format!("Bearer {right}x"),
        format!("Bearer {}", &right[1..]),
        "Bearer x".to_owned(),
    ] {
        assert_eq!(error(&version(&wrong)), INVALID, "{wrong}");
    }
    assert_eq!(version(&format!("Bearer {right}")).0, 200);
    daemon.stop();
}

#[test]
fn a_session_is_never_presented_over_tcp() {
    let daemon = with_tcp(&[]);
    let living = TestProcess::start();
    let token = daemon.register("a", living.pid());
    let session = format!(
        "Authorization: ClaudeMesh-Session {}\r\n",
        token.reveal().as_str()
    );
    let with = presenting(&bearer(&daemon));
    let me = |fields: &str| {
        let fields = format!("{LOCAL}{fields}");
        over_tcp(&address(&daemon), "GET /v1/sessions/me", &fields)
    };
    assert_eq!(error(&me(&session)), MISSING);
    assert_eq!(error(&me(&with)), (401, "no session token"));
    assert_eq!(me(&format!("{with}{session}")).0, 400);
    assert_eq!(over_socket(&daemon, "GET /v1/sessions/me", &session).0, 200);
}

#[test]
fn pages_in_a_browser_are_refused_before_the_bearer_is_read() {
    let daemon = with_tcp(&[]);
    let address = address(&daemon);
    let with = presenting(&bearer(&daemon));
    let version = |fields: &str| over_tcp(&address, "GET /v1/version", fields);
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.0.0.1:47823",
        "[::1]",
        "[::1]:7",
        "",
    ] {
        let answer = version(&format!("Host: {host}\r\n{with}"));
        assert_eq!(answer.0, 200, "{host}: {answer:?}");
    }
    let forbidden = (403, "forbidden host");
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "10.0.0.1",
    ] {
        let answer = version(&format!("Host: {host}\r\n{with}"));
        assert_eq!(error(&answer), forbidden, "{host}");
        assert_eq!(error(&version(&format!("Host: {host}\r\n"))), forbidden);
    }
    for origin in ["null", "http://localhost", "https://evil.example"] {
        let answer = version(&format!("{LOCAL}Origin: {origin}\r\n{with}"));
        assert_eq!(error(&answer), (403, "forbidden origin"));
    }
    let in_query = over_tcp(&address, "GET /v1/proof?token=x", "Host: evil.example\r\n");
    let text = "token must be in Authorization header, not query string";
    assert_eq!(error(&in_query), (400, text));
}

#[test]
fn a_client_with_the_bearer_acts_as_the_daemons_user() {
    let daemon = with_tcp(&[]);
    let living = TestProcess::start();
    let answer = register(&daemon, "over-tcp", living.pid());
    assert_eq!(answer.0, 200, "{answer:?}");
    let own = rustix::process::geteuid().as_raw();
    let (_, list) = over_socket(&daemon, "GET /v1/sessions", "");
    assert_eq!(list["sessions"][0]["uid"], own);
    drop(living);
    eventually("its session ends with it", || daemon.list().is_empty());
    daemon.stop();

    let strict = with_tcp(&["--register-policy", "self"]);
    let living = TestProcess::start();
    let answer = register(&strict, "over-tcp", living.pid());
    assert_eq!((answer.0, &answer.1["code"]), (403, &json!("not_yourself")));
}

fn register(daemon: &TestDaemon, id: &str, pid: u32) -> crate::Answer {
    let stream = TcpStream::connect(address(daemon)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let body = json!({
        "token": format!("{pid:064x}"), "session_id": id, "mesh": "m", "display_name": id, "pid": pid,
    });
    let fields = format!("{LOCAL}{}", presenting(&bearer(daemon)));
    let line = "POST /v1/sessions/register";
    exchange(stream, line, &fields, &body.to_string())
}

#[test]
fn a_daemon_of_root_gives_no_client_roots_rights() {
    if !reaper_tests::expect::root_with(&[]) {
        return;
    }
    let daemon = with_tcp(&["--allow-uid", "2001"]);
    let theirs = UserProcess::start(2_001);
    daemon.register("theirs", theirs.pid());
    let with = format!("{LOCAL}{}", presenting(&bearer(&daemon)));
    let ask = |line| over_tcp(&address(&daemon), line, &with);
    assert_eq!(ask("GET /v1/sessions?uid=2001").1["code"], "other_user");
    let answer = register(&daemon, "b", theirs.pid());
    assert_eq!(answer.1["code"], "not_your_process", "{answer:?}");
}

#[test]
fn health_is_public_only_on_request_and_then_short() {
    let daemon = with_tcp(&["--public-health", "--brokers", "a,b"]);
    let address_of = address(&daemon);
    let (status, body) = over_tcp(&address_of, "GET /v1/health", LOCAL);
    assert_eq!(status, 200);
    let names: Vec<_> = body.as_object().unwrap().keys().collect();
    assert_eq!(names, ["brokers", "ok", "pid", "status"]);
    assert_eq!(body["brokers"], json!({"a": "open", "b": "open"}));
    let with = format!("{LOCAL}{}", presenting(&bearer(&daemon)));
    let (_, whole) = over_tcp(&address_of, "GET /v1/health", &with);
    assert_eq!(whole["tcp"], address_of.as_str());
    assert_eq!(
        error(&over_tcp(&address_of, "POST /v1/health", LOCAL)),
        MISSING
    );
}

#[test]
fn a_daemon_is_not_replaced_over_tcp() {
    let daemon = with_tcp(&[]);
    let with = format!("{LOCAL}{}", presenting(&bearer(&daemon)));
    let answer = over_tcp(&address(&daemon), "POST /v1/daemon/replace", &with);
    assert_eq!(error(&answer), (404, "not found"));
}

#[test]
fn connections_over_tcp_do_not_use_up_those_of_the_daemons_user() {
    let daemon = with_tcp(&["--max-connections", "16"]);
    let address = address(&daemon);
    let idle: Vec<_> = (0..64)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    for _ in 0..20 {
        assert_eq!(over_socket(&daemon, "GET /v1/version", "").0, 200);
    }
    let limits = over_socket(&daemon, "GET /v1/limits", "").1;
    let used = limits["limits"]["connections"]["used"].as_u64();
    // This one, and some of those before it that are about to close.
    assert!(used.is_some_and(|used| used < 6), "{limits}");
    drop(idle);
}

#[test]
fn the_port_outlives_a_worker_and_a_replaced_daemon() {
    let mut daemon = with_tcp(&[]);
    let (first, secret) = (address(&daemon), bearer(&daemon));
    let with = format!("{LOCAL}{}", presenting(&secret));
    let living = TestProcess::start();
    daemon.register("kept", living.pid());
    let worker = daemon.pid();
    daemon.signal_worker(Signal::KILL);
    eventually("another worker serves", || {
        daemon.pid() != worker && over_tcp(&first, "GET /v1/version", &with).0 == 200
    });

    let arguments = ["--replace", ANY_PORT[0], first.as_str()];
    daemon.hand_over_to(&Launch::with(&arguments));
    daemon.serves();
    let (_, sessions) = over_tcp(&first, "GET /v1/sessions", &with);
    assert_eq!(
        sessions["sessions"][0]["sessionId"],
        "kept",
        "{}",
        daemon.log()
    );
    assert_eq!(bearer(&daemon), secret);
    daemon.stop();
    assert!(TcpStream::connect(&first).is_err(), "it still listens");
}

#[test]
fn a_connection_over_tcp_outlives_a_replaced_daemon() {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};

    let mut daemon = with_tcp(&[]);
    let address = address(&daemon);
    let request = format!(
        "GET /v1/version HTTP/1.1\r\n{LOCAL}{}\r\n",
        presenting(&bearer(&daemon))
    );
    let mut connection = BufReader::new(TcpStream::connect(&address).unwrap());
    connection
        .get_ref()
        .set_read_timeout(Some(TIMEOUT))
        .unwrap();
    let mut ask = || {
        connection.get_mut().write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            head.push(line.to_lowercase());
        }
        let length = head
            .iter()
            .find_map(|it| it.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().trim().parse().unwrap()];
        connection.read_exact(&mut body).unwrap();
        head.swap_remove(0)
    };
    assert!(ask().contains(" 200 "));
    let successor = ["--replace", ANY_PORT[0], address.as_str()];
    daemon.hand_over_to(&Launch::with(&successor));
    assert!(ask().contains(" 200 "));
}

#[test]
fn only_the_loopback_interface_is_listened_on() {
    for wrong in ["0.0.0.0:0", "[::]:0", "10.0.0.1:47823", "192.168.1.1:1"] {
        let folder = reaper_tests::daemon::private_folder();
        let ended = Command::new(reaperd())
            .args(["daemon", "--no-config", "--tcp", wrong, "--socket"])
            .arg(folder.path().join("s.sock"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(78), "{wrong}: {text}");
        assert!(text.contains("loopback"), "{text}");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_with_a_remedy() {
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = squatter.local_addr().unwrap().port().to_string();
    let mut daemon = Launch::with(&["--tcp", &port]).spawn();
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(daemon.log().contains("use another port with --tcp"));
    assert!(!beside_socket(&daemon, "local-token").exists());
}

#[test]
fn it_listens_on_ipv6_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        skip("this machine has no IPv6");
        return;
    }
    let daemon = Launch::with(&["--tcp", "[::1]:0"]).start();
    let with = format!("Host: [::1]\r\n{}", presenting(&bearer(&daemon)));
    let answer = over_tcp(&address(&daemon), "GET /v1/version", &with);
    assert_eq!(answer.0, 200);
}
