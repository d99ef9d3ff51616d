//! Start, activation, reload and the watchdog.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use reaper_tests::expect::measured;
use reaper_tests::machine::{Machine, SOCKET};
use reaper_tests::wait::{eventually, eventually_some};

const UNIT: &str = "reaperd.service";
/// The configuration file of the system.
const FILE: &str = "/etc/reaperd/reaperd.toml";

/// The pid of the worker, in the machine.
fn worker(machine: &Machine) -> Option<String> {
    Some(health(machine)?["pid"].to_string())
}

fn health(machine: &Machine) -> Option<serde_json::Value> {
    let (_, body) = machine.request("GET /v1/health", "").ok()?;
    serde_json::from_str(&body).ok()
}

#[test]
fn a_started_unit_serves_and_its_status_line_follows_the_sessions() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.start(UNIT);
    assert_eq!(machine.request("GET /v1/health", "").unwrap().0, 200);
    eventually("the status has the sources", || {
        machine.property(UNIT, "StatusText") == "0 sessions, pidfd ok, sweep ok, 0 lost"
    });
    let mut session = machine
        .command(&["reaperd", "run", "--", "sleep", "1000"])
        .spawn()
        .unwrap();
    eventually("the status has the session", || {
        machine.property(UNIT, "StatusText") == "1 session, pidfd ok, sweep ok, 0 lost"
    });
    session.kill().unwrap();
    session.wait().unwrap();
    let status = machine.run(&["systemctl", "status", "--no-pager", UNIT]);
    assert!(status.contains("Status: \""), "{status}");
    machine.run(&["systemctl", "stop", "reaperd.socket", UNIT]);
    assert_eq!(machine.property(UNIT, "Result"), "success");
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), "0");
}

#[test]
fn the_first_connections_start_the_daemon_and_none_is_refused() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.start("reaperd.socket");
    assert_eq!(machine.property(UNIT, "ActiveState"), "inactive");
    thread::scope(|scope| {
        let request = || assert_eq!(machine.request("GET /v1/health", "").unwrap().0, 200);
        (0..20).for_each(|_| drop(scope.spawn(request)));
    });
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
}

/// A request that was accepted right before the end may fail. One that comes later waits in the socket of the
/// service manager.
#[test]
fn no_connection_is_refused_while_the_daemon_restarts() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.start(UNIT);
    let is_over = AtomicBool::new(false);
    let (answered, failed) = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut answered, mut failed) = (0, Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                match machine.request("GET /v1/health", "") {
                    Ok((200, _)) => answered += 1,
                    other => failed.push(format!("{other:?}")),
                }
            }
            (answered, failed)
        });
        for _ in 0..3 {
            machine.run(&["systemctl", "restart", UNIT]);
        }
        is_over.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    measured("requests answered during three restarts", answered);
    measured("requests failed during three restarts", failed.len());
    assert!(answered > 10);
    let refused = failed.iter().filter(|error| {
        ["refused", "No such file"]
            .iter()
            .any(|text| error.contains(text))
    });
    assert_eq!(refused.count(), 0, "{failed:?}");
    assert!(failed.len() <= 3, "{failed:?}");
}

#[test]
fn a_reload_reads_the_file_of_the_system_and_keeps_process_and_socket() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write(FILE, "ttl = \"1h\"\n");
    machine.start(UNIT);
    let before = (worker(&machine), machine.property(UNIT, "MainPID"));
    assert_eq!(health(&machine).unwrap()["config"]["files"][0], FILE);
    assert_eq!(answer_to_member(&machine), "200", "of the socket's group");
    machine.write(FILE, "ttl = \"2h\"\nlog = \"debug\"\n");
    machine.run(&["systemctl", "reload", UNIT]);
    eventually("the reload has ended", || {
        machine.property(UNIT, "ActiveState") == "active"
            && machine.journal().contains("ttl \"1h\" -> \"2h\"")
    });
    assert_eq!(
        (worker(&machine), machine.property(UNIT, "MainPID")),
        before
    );
    // The path and the group of the socket are not in the file.
    assert_eq!(answer_to_member(&machine), "200", "after the reload");
    let needs_restart = &health(&machine).unwrap()["config"]["needs_restart"];
    assert_eq!(*needs_restart, serde_json::json!([]));
    machine.request("GET /v1/nothing", "").unwrap();
    let command = ["journalctl", "--unit", UNIT, "PRIORITY=7"];
    eventually("the journal has the level debug", || {
        machine.run(&command).contains("404 ")
    });
}

/// Prints the status of a response.
const REQUEST: &str = r#"
use strict; use warnings; use Socket;
socket(my $daemon, PF_UNIX, SOCK_STREAM, 0) or die $!;
connect($daemon, sockaddr_un($ARGV[0])) or die $!;
syswrite $daemon, "GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
sysread $daemon, my $answer, 65536;
print substr $answer, 9, 3;
"#;

/// The status that a member of the socket's group gets.
fn answer_to_member(machine: &Machine) -> String {
    let member = [
        "setpriv",
        "--reuid=2001",
        "--regid=reaperd",
        "--clear-groups",
    ];
    machine.run(&[&member[..], &["perl", "-e", REQUEST, SOCKET]].concat())
}

#[test]
fn a_worker_that_hangs_is_restarted_by_the_watchdog() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write(
        "/run/systemd/system/reaperd.service.d/watchdog.conf",
        "[Service]\nWatchdogSec=2s\n",
    );
    machine.start(UNIT);
    let stopped = eventually_some("the daemon serves", || worker(&machine));
    machine.run(&["sh", "-c", &format!("kill -STOP {stopped}")]);
    eventually("the watchdog has restarted it", || {
        machine.property(UNIT, "NRestarts") == "1"
    });
    eventually("the new one serves", || {
        worker(&machine).is_some_and(|worker| worker != stopped)
    });
    let journal = machine.journal();
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    // It does not bite a daemon that works.
    reaper_tests::wait::throughout(std::time::Duration::from_secs(5), || {
        assert_eq!(machine.property(UNIT, "NRestarts"), "1");
    });
}
