//! What a reload changes in a running daemon, and what it leaves alone.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use reaper_tests::daemon::doctor_through;
use reaper_tests::raw_http::{self, parse};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{eventually, within};
use serde_json::json;

use super::*;

/// A quick daemon for tests that do not depend on sources.
pub(super) const PIDFD: [&str; 2] = ["--sources", "pidfd"];

/// Sends a request over a connection of its own and returns the response.
fn ask(socket: &Path, request: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

pub(super) fn status(socket: &Path, request: &str) -> u16 {
    ask(socket, request).map_or(0, |response| parse(&response).unwrap().0)
}

pub(super) fn version() -> String {
    raw_http::request("GET /v1/version", "", "")
}

/// The rest of the life of this session in seconds, if it has an end.
fn ttl_of(daemon: &TestDaemon, id: &str) -> Option<u64> {
    let list: Value = daemon.get("/v1/sessions?verbose=1").unwrap();
    let sessions = list["sessions"].as_array().unwrap();
    let session = sessions.iter().find(|it| it["sessionId"] == id).unwrap();
    let at = |field: &str| session[field].as_u64();
    Some((at("expiresAt")? - at("registeredAt").unwrap()) / 1_000)
}

#[test]
fn lifetimes_change_for_what_is_registered_then() {
    let configured = Configured::start("ttl = \"1h\"\n", &PIDFD);
    let daemon = &configured.daemon;
    let process = TestProcess::start();
    daemon.register("before", process.pid());
    assert_eq!(ttl_of(daemon, "before"), Some(3_600));
    configured.reload("ttl = \"2h\"\n");
    daemon.register("after", process.pid());
    assert_eq!(
        ttl_of(daemon, "before"),
        Some(3_600),
        "it keeps what it was granted"
    );
    assert_eq!(ttl_of(daemon, "after"), Some(7_200));
    configured.reload("ttl = \"never\"\n");
    daemon.register("endless", process.pid());
    assert_eq!(ttl_of(daemon, "endless"), None);
    configured.reload("ttl = \"never\"\nmax-ttl = \"5m\"\n");
    daemon.register("capped", process.pid());
    assert_eq!(ttl_of(daemon, "capped"), Some(300));
    configured.daemon.stop();
}

#[test]
fn limits_of_sessions_and_bytes_change() {
    let configured = Configured::start("max-sessions = 1\n", &PIDFD);
    let daemon = &configured.daemon;
    let process = TestProcess::start();
    daemon.register("a", process.pid());
    let refused = |id| {
        daemon
            .try_register(id, process.pid())
            .unwrap_err()
            .to_string()
    };
    assert!(refused("b").contains("1 sessions"), "{}", refused("b"));
    configured.reload("max-sessions = 2\n");
    daemon.register("b", process.pid());
    configured.reload("max-sessions-per-uid = 2\n");
    assert!(refused("c").contains('2'), "{}", refused("c"));
    configured.reload("max-sessions-per-uid = 3\n");
    daemon.register("c", process.pid());
    configured.reload("max-bytes-per-uid = 1\n");
    assert!(daemon.try_register("d", process.pid()).is_err());
    configured.reload("max-bytes = 1\n");
    assert!(daemon.try_register("d", process.pid()).is_err());
    // Lower limits remove nothing.
    assert_eq!(daemon.list().len(), 3);
    configured.reload("");
    daemon.register("d", process.pid());
    configured.daemon.stop();
}

#[test]
fn limits_of_connections_and_streams_change() {
    let configured = Configured::start("", &PIDFD);
    let daemon = &configured.daemon;
    let limit = |resource: &str, field: &str| {
        let limits: Value = daemon.get("/v1/limits").unwrap();
        limits["limits"][resource][field].as_u64().unwrap()
    };
    let before = limit("connections", "total");
    configured.reload("max-connections = 12\nmax-streams-per-uid = 2\n");
    assert_eq!(limit("connections", "total"), 12);
    assert_eq!(limit("streams", "limit"), 2);
    let streams = [daemon.events(), daemon.events()];
    let third = raw_http::request("GET /v1/events", "", "");
    assert_eq!(status(&daemon.socket(), &third), 429);
    configured.reload("max-connections = 12\nmax-streams-per-uid = 3\n");
    let mut one_more = UnixStream::connect(daemon.socket()).unwrap();
    one_more.write_all(third.as_bytes()).unwrap();
    let mut start = [0; 12];
    one_more.read_exact(&mut start).unwrap();
    assert_eq!(&start[9..], b"200");
    drop((streams, one_more));
    configured.reload("max-connections-per-uid = 3\n");
    assert_eq!(limit("connections", "limit"), 3);
    assert_eq!(limit("connections", "total"), before, "as at the start");
    // Busy ones cannot be closed for a new one: each waits for the rest of a head.
    let mut held: Vec<_> = (0..3)
        .map(|_| UnixStream::connect(daemon.socket()).unwrap())
        .collect();
    for stream in &mut held {
        stream
            .write_all(
                b"POST /v1/sessions/register HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
            )
            .unwrap();
    }
    eventually("a further connection is refused", || {
        status(&daemon.socket(), &version()) == 429
    });
    drop(held);
    configured.daemon.stop();
}

#[test]
fn connections_beyond_those_of_the_start_need_a_restart() {
    let configured = Configured::start("max-connections = 10\n", &PIDFD);
    configured.reload("max-connections = 11\n");
    assert_eq!(
        configured.health()["needs_restart"],
        json!(["max-connections"])
    );
    assert!(
        configured
            .daemon
            .log()
            .contains("needs a restart: max-connections")
    );
    configured.reload("max-connections = 9\n");
    assert_eq!(configured.health()["needs_restart"], json!([]));
    configured.daemon.stop();
}

#[test]
fn strict_replace_changes() {
    let configured = Configured::start("", &PIDFD);
    let daemon = &configured.daemon;
    let processes = [
        TestProcess::start(),
        TestProcess::start(),
        TestProcess::start(),
    ];
    daemon.register("s", processes[0].pid());
    daemon.register("s", processes[1].pid());
    configured.reload("strict-replace = true\n");
    assert!(daemon.try_register("s", processes[2].pid()).is_err());
    configured.reload("strict-replace = false\n");
    daemon.register("s", processes[2].pid());
    configured.daemon.stop();
}

#[test]
fn new_connections_are_kept_for_the_new_time() {
    let configured = Configured::start("keep-alive = \"40s\"\n", &PIDFD);
    let socket = configured.daemon.socket();
    let kept = "GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n";
    let announced = |stream: &mut UnixStream| {
        stream.write_all(kept.as_bytes()).unwrap();
        let mut part = [0; 4_096];
        let length = stream.read(&mut part).unwrap();
        let text = String::from_utf8_lossy(&part[..length]).to_lowercase();
        let time = text.split("timeout=").nth(1).unwrap();
        time.split('\r').next().unwrap().to_owned()
    };
    let mut old = UnixStream::connect(&socket).unwrap();
    assert_eq!(announced(&mut old), "40");
    configured.reload("keep-alive = \"1s\"\n");
    assert_eq!(announced(&mut old), "40", "it was promised that");
    eventually("new connections have the new time", || {
        announced(&mut UnixStream::connect(&socket).unwrap()) == "1"
    });
    let mut new = UnixStream::connect(&socket).unwrap();
    announced(&mut new);
    let mut rest = Vec::new();
    let closed_after = within(Duration::from_secs(10), "it is closed", || {
        new.read_to_end(&mut rest).is_ok()
    });
    assert!(closed_after >= Duration::from_secs(2), "{closed_after:?}");
    assert_eq!(announced(&mut old), "40", "the old one is still open");
    configured.daemon.stop();
}

#[test]
fn the_sweep_has_its_new_interval() {
    let slow = "sweep-interval = \"1h\"\n";
    let configured = Configured::start(slow, &["--sources", "sweep"]);
    let daemon = &configured.daemon;
    let mut process = TestProcess::start();
    daemon.register("s", process.pid());
    assert_eq!(daemon.sources().worst_case_delay_ms, Some(3_600_000));
    // One reload of the same interval must not sweep at once, or the next step shows nothing.
    configured.reload(slow);
    configured.reload("sweep-interval = \"50ms\"\n");
    assert_eq!(daemon.sources().worst_case_delay_ms, Some(50));
    // The reload itself has swept: this process ends after that.
    eventually("the first sweep", || daemon.lists("s"));
    process.kill();
    within(Duration::from_secs(5), "the sweep finds it", || {
        !daemon.lists("s")
    });
    configured.daemon.stop();
}

#[test]
fn the_log_level_changes() {
    let configured = Configured::start("", &PIDFD);
    let (daemon, socket) = (&configured.daemon, configured.daemon.socket());
    let has_debug = || daemon.log().contains(" DEBUG ");
    status(&socket, &version());
    assert!(!has_debug());
    configured.reload("log = \"debug\"\n");
    eventually("lines of the level debug", || {
        // A connection that ends within a request is one.
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream
            .write_all(
                b"POST /v1/sessions/register HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
            )
            .unwrap();
        drop(stream);
        has_debug()
    });
    // The report of this reload is of the level info.
    configured.file.write("log = \"error\"\n");
    daemon.signal(Signal::HUP);
    let lines = || daemon.log().lines().count();
    eventually("the level error", || {
        let before = lines();
        daemon.signal(Signal::USR1);
        status(&socket, &version()) == 200 && lines() == before
    });
    configured.daemon.stop();
}

#[test]
fn a_file_with_faults_changes_nothing_and_is_reported_everywhere() {
    let good = "ttl = \"1h\"\n";
    for flags in [&[][..], &["--no-monitor"]] {
        let configured = Configured::start(good, &[&PIDFD[..], flags].concat());
        let daemon = &configured.daemon;
        let process = TestProcess::start();
        let loaded_at = configured.health()["loaded_at"].as_u64().unwrap();
        assert_eq!(
            configured.health()["files"],
            json!([configured.file.path()])
        );
        configured.reload("ttl = \"2h\"\nmax-sesions = 5\n");
        let health = configured.health();
        let error = health["error"].as_str().unwrap();
        assert!(
            error.contains("reaperd.toml:2:1: unknown key \"max-sesions\""),
            "{error}"
        );
        assert_eq!(health["loaded_at"], loaded_at);
        assert!(
            daemon
                .log()
                .contains("ERROR reaperd::daemon::reload] the configuration stays as it is: ")
        );
        let findings = doctor_through(&[], &daemon.socket());
        let finding = findings
            .iter()
            .find(|it| it["subject"] == "config")
            .unwrap();
        assert_eq!(finding["verdict"], "warn");
        assert!(
            finding["text"].as_str().unwrap().contains("max-sesions"),
            "{finding}"
        );
        daemon.register("s", process.pid());
        assert_eq!(ttl_of(daemon, "s"), Some(3_600));
        configured.reload("ttl = \"3h\"\n");
        assert_eq!(configured.health()["error"], Value::Null);
        assert!(configured.health()["loaded_at"].as_u64().unwrap() > loaded_at);
        // A file that is gone is one with faults, if it was named.
        fs::remove_file(&configured.file.path).unwrap();
        daemon.signal(Signal::HUP);
        eventually("the missing file is reported", || {
            configured.health()["error"]
                .as_str()
                .is_some_and(|it| it.contains("does not exist"))
        });
        configured.daemon.stop();
    }
}

#[test]
fn what_needs_a_restart_is_named_and_not_changed() {
    let configured = Configured::start("", &PIDFD);
    let text =
        "socket-group = \"root\"\nrequire = \"netlink\"\nsocket = \"/nowhere/s\"\nttl = \"1h\"\n";
    configured.reload(text);
    // The socket is given by a flag, which wins.
    let log = configured.daemon.log();
    assert!(
        log.contains("needs a restart: require, socket-group\n"),
        "{log}"
    );
    assert!(
        log.contains("configuration reloaded: ttl \"24h\" -> \"1h\"\n"),
        "{log}"
    );
    assert_eq!(
        configured.health()["needs_restart"],
        json!(["require", "socket-group"])
    );
    let findings = doctor_through(&[], &configured.daemon.socket());
    let finding = findings
        .iter()
        .find(|it| it["subject"] == "config")
        .unwrap();
    assert_eq!(finding["remedy"], "restart the daemon");
    configured.reload("");
    assert_eq!(configured.health()["needs_restart"], json!([]));
    configured.daemon.stop();
}

#[test]
fn another_worker_has_the_options_of_the_last_reload() {
    let configured = Configured::start("ttl = \"1h\"\n", &PIDFD);
    let daemon = &configured.daemon;
    let replaced = |times: u64| {
        daemon.signal_worker(Signal::KILL);
        eventually("another worker serves", || {
            let health = daemon.get::<Value>("/v1/health");
            health.is_ok_and(|health| health["restarts"] == times)
        });
    };
    configured.reload("ttl = \"2h\"\n");
    let process = TestProcess::start();
    replaced(1);
    daemon.register("first", process.pid());
    assert_eq!(ttl_of(daemon, "first"), Some(7_200));
    // What has been edited since, and may be wrong, is for the next reload.
    for (times, (id, text)) in (2..).zip([
        ("second", "ttl = \"3h\"\n"),
        ("third", "ttl = \"sometimes\"\n"),
    ]) {
        configured.file.write(text);
        replaced(times);
        daemon.register(id, process.pid());
        assert_eq!(ttl_of(daemon, id), Some(7_200));
        assert_eq!(configured.health()["error"], Value::Null);
    }
    configured.daemon.stop();
}

#[test]
fn a_reload_that_is_requested_while_no_worker_serves_is_done_by_the_next_one() {
    let configured = Configured::start("ttl = \"1h\"\n", &PIDFD);
    let daemon = &configured.daemon;
    let process = TestProcess::start();
    let mut registered = 0;
    for round in 2..12_u64 {
        configured.file.write(&format!("ttl = \"{round}h\"\n"));
        daemon.signal_worker(Signal::KILL);
        daemon.signal(Signal::HUP);
        eventually("the new value is in force", || {
            let health = daemon.get::<Value>("/v1/health");
            if !health.is_ok_and(|health| health["restarts"] == round - 1) {
                return false;
            }
            // A renewal would keep its lifetime.
            registered += 1;
            let id = format!("s-{registered}");
            daemon.register(&id, process.pid());
            ttl_of(daemon, &id) == Some(round * 3_600)
        });
    }
    configured.daemon.stop();
}
