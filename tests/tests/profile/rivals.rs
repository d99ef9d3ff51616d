//! Another daemon beside this one: it is noticed and reported, and its files are left alone.

use std::fs;
use std::os::unix::net::UnixListener;

use reaper_tests::daemon::{TestDaemon, doctor_through};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{eventually, eventually_some};
use serde_json::Value;

use crate::{beside_socket, over_socket, profile};

fn conflicts(daemon: &TestDaemon) -> Vec<String> {
    let (_, health) = over_socket(daemon, "GET /v1/health", "");
    let conflicts = health["conflicts"].as_array().unwrap().iter();
    conflicts
        .map(|it| it.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_second_daemon_does_not_start() {
    let daemon = profile(&[]).start();
    let second = daemon.spawn_beside(&profile(&[]));
    let ended = second.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let log = daemon.log();
    let expected = format!("a daemon (pid {}) already runs", daemon.started());
    assert!(log.contains(&expected), "{log}");
    daemon.stop();
}

#[test]
fn a_live_process_in_the_pid_file_is_reported_and_left_alone() {
    let daemon = profile(&[]).start();
    let pid_file = beside_socket(&daemon, "daemon.pid");
    let rival = TestProcess::start();
    fs::write(&pid_file, rival.pid().to_string()).unwrap();
    let expected = format!("process {} has written its pid", rival.pid());
    eventually("the conflict is reported", || {
        conflicts(&daemon).iter().any(|it| it.contains(&expected))
    });
    assert_eq!(daemon.log().matches(&expected).count(), 1);
    let finding = doctor_through(&[], &daemon.socket())
        .into_iter()
        .find(|it| it["subject"] == "conflicts");
    assert!(
        finding.unwrap()["text"]
            .as_str()
            .unwrap()
            .contains(&expected)
    );
    assert_eq!(
        fs::read_to_string(&pid_file).unwrap(),
        rival.pid().to_string()
    );
    drop(rival);
    eventually("the file is the daemon's again", || {
        fs::read_to_string(&pid_file).unwrap() == daemon.started().to_string()
    });
    eventually("nothing is reported", || conflicts(&daemon).is_empty());
    daemon.stop();
}

#[test]
fn a_rival_in_the_pid_file_at_the_start_ends_the_start() {
    let mut daemon = profile(&[]).start();
    daemon.kill();
    let pid_file = beside_socket(&daemon, "daemon.pid");
    let start = |content: &str| {
        fs::write(&pid_file, content).unwrap();
        daemon.spawn_beside(&profile(&[]))
    };
    let rival = TestProcess::start();
    let ended = start(&rival.pid().to_string()).wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", daemon.log());
    assert!(
        daemon
            .log()
            .contains(&format!("a daemon (pid {})", rival.pid()))
    );
    drop(rival);
    for stale in ["4194303", "no number", ""] {
        let mut child = start(stale);
        let own = child.id().to_string();
        eventually("it takes the file over", || {
            assert!(child.try_wait().unwrap().is_none(), "{}", daemon.log());
            fs::read_to_string(&pid_file).unwrap() == own
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn another_listener_at_the_path_is_reported() {
    let daemon = profile(&[]).start();
    let socket = daemon.socket();
    // Connected before: the rival takes the path.
    let aside = beside_socket(&daemon, "aside");
    fs::rename(&socket, &aside).unwrap();
    let rival = UnixListener::bind(&socket).unwrap();
    let conflict = eventually_some("the daemon notices", || {
        let log = daemon.log();
        log.contains("some other program listens on").then_some(log)
    });
    assert!(conflict.contains("cannot be bound again"), "{conflict}");
    let through = std::os::unix::net::UnixStream::connect(&aside).unwrap();
    let line = "GET /v1/health";
    let health = crate::exchange(through, line, "Host: localhost\r\n", "").1;
    assert!(
        matches!(&health["conflicts"], Value::Array(all) if all.len() == 1),
        "{health}"
    );
    drop(rival);
}
