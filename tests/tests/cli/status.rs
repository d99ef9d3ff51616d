//! `status`, and what `doctor` says about a running daemon.

use reaper_tests::daemon::private_folder;
use reaper_tests::wait::eventually;
use reaperd::testkit::test_process::{Kind, TestProcess};

use super::*;

#[test]
fn status_shows_the_running_daemon_and_its_last_exit() {
    let daemon = daemon();
    let mut test_process = TestProcess::spawn(reaperd(), Kind::Sleep).unwrap();
    daemon.register("dying", test_process.pid().get());
    daemon.register("living", std::process::id());
    let first = run(&daemon, &["status"]).done();
    assert!(first.contains("last exit  none"), "{first}");
    test_process.kill().unwrap();
    eventually("the session is removed", || !daemon.lists("dying"));

    let text = run(&daemon, &["status"]).done();
    let uid = rustix::process::geteuid().as_raw();
    for part in [
        "reaperd  ",
        &format!("sessions   1 (user {uid}: 1)"),
        &format!("socket     {}", daemon.socket().display()),
        &format!("monitor {}, worker {}", daemon.started(), daemon.pid()),
        "lost       nothing",
        &format!("dying, pid {}, killed by SIGKILL", test_process.pid()),
        "sessions 1 of 10000",
        "memory     ",
        "sandbox    ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let report = json(&run(&daemon, &["status", "--json"]).done());
    assert_eq!(report["schema"], 1);
    assert_eq!(report["health"]["last_exit"]["session_id"], "dying");
    assert_eq!(report["health"]["last_exit"]["exit"]["signal"], 9);
    assert!(report["health"]["uptime_ms"].as_u64().is_some(), "{report}");
    assert_eq!(report["sources"]["sessions"], 1);
    daemon.stop();
}

#[test]
fn status_without_a_daemon_has_the_code_for_that() {
    let folder = private_folder();
    let socket = folder.path().join("s.sock");
    let output = CommandOutput::of(command(&["status", "--socket"]).arg(&socket));
    output.failed(NO_DAEMON, "no daemon is listening on ");
}

#[test]
fn doctor_begins_with_the_running_daemon_and_its_numbers() {
    let daemon = daemon();
    daemon.register("s-1", std::process::id());
    let text = run(&daemon, &["doctor"]).done();
    let first = text.lines().next().unwrap_or_default();
    assert!(
        first.contains("daemon") && first.contains("sessions 1, processes 1"),
        "{text}"
    );
    let report = json(&run(&daemon, &["doctor", "--json"]).done());
    let findings = report["findings"].as_array().unwrap();
    let scopes: Vec<_> = findings
        .iter()
        .map(|it| it["scope"].as_str().unwrap())
        .collect();
    let probes = scopes.iter().position(|scope| *scope == "probe").unwrap();
    assert!(probes > 0, "{scopes:?}");
    assert!(
        scopes[..probes].iter().all(|it| *it == "daemon"),
        "{scopes:?}"
    );
    daemon.stop();
}
