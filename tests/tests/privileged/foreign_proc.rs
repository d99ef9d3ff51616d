//! The daemon in a new pid namespace with the host's `/proc`, where its pids denote other
//! processes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::daemon::{Launch, TestDaemon, children_of, doctor_through};
use reaper_tests::expect::root_with;
use reaper_tests::fork_server::{ForkServer, KEEP_ZOMBIES};
use reaper_tests::sys::seccomp::{Denied, spawn_denied};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::throughout;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

const FOREIGN_PROC: &[&str] = &["unshare", "--pid", "--fork"];
const SWEEP: Duration = Duration::from_millis(100);
const SENTENCE: &str = "/proc is that of another pid namespace";

#[test]
fn with_a_foreign_proc_the_death_of_an_unrelated_process_removes_no_session() {
    if !root_with(&["unshare", "nsenter"]) {
        return;
    }
    for (sources, with_pidfds) in [
        ("auto", true),
        ("auto", false),
        ("sweep", true),
        ("sweep", false),
    ] {
        println!("--sources {sources}, pidfds: {with_pidfds}");
        unrelated_death_removes_nothing(sources, with_pidfds);
    }
}

fn unrelated_death_removes_nothing(sources: &str, with_pidfds: bool) {
    let (daemon, inside) = start(
        &["--sources", sources, "--register-policy", "any"],
        with_pidfds,
    );
    let mut fork_server = fork_server_in(inside);
    let mut events = daemon.events();
    // Two processes with the same pid: one on the host, which the daemon sees in `/proc`, and the
    // registered one in the namespace.
    let mut unrelated = TestProcess::start();
    let shared_pid = unrelated.pid();
    let token = Token::from_bytes([7; 32]);
    let (pid, response) = fork_server
        .start_registered(Some(shared_pid), &daemon.socket(), &token, "inner")
        .unwrap();
    let body = &response.body;
    assert_eq!((pid, response.status), (shared_pid, 200), "{body}");
    let identity = body["identity"].as_str().unwrap();
    assert_eq!(identity, if with_pidfds { "pidfd" } else { "pid" });
    assert!(body["start_time"].is_null(), "{body}");

    unrelated.kill();
    unrelated.reap();
    throughout(6 * SWEEP, || {
        assert!(daemon.lists("inner"), "a false death\n{}", daemon.log());
    });
    check_warnings(&daemon);

    fork_server.end(shared_pid).unwrap();
    let removal = events.removal_of("inner").data;
    assert_eq!(removal.cause, "exited");
    assert!(!daemon.accepts(&token));
    drop(events);
    drop(fork_server);
    kill_process(inside, Signal::TERM).unwrap();
    daemon.stopped();
}

/// Checks the warning in the log and the state of the sweep.
fn check_warnings(daemon: &TestDaemon) {
    let log = daemon.log();
    assert!(log.contains("WARN") && log.contains(SENTENCE), "{log}");
    let sweep = daemon.source("sweep");
    assert_eq!(sweep.state, "degraded", "{sweep:?}");
    assert!(sweep.reason.starts_with(SENTENCE), "{sweep:?}");
    assert!(sweep.remedy.contains("--mount-proc"), "{sweep:?}");
}

#[test]
fn with_a_foreign_proc_no_caller_may_register_a_process() {
    if !root_with(&["unshare", "nsenter"]) {
        return;
    }
    for with_pidfds in [true, false] {
        let (daemon, inside) = start(&[], with_pidfds);
        let mut fork_server = fork_server_in(inside);
        let (_, response) = fork_server
            .start_registered(None, &daemon.socket(), &Token::from_bytes([7; 32]), "inner")
            .unwrap();
        assert_eq!(response.status, 403, "{}", response.body);
        assert!(daemon.list().is_empty());
        drop(fork_server);
        kill_process(inside, Signal::TERM).unwrap();
        daemon.stopped();
    }
}

#[test]
fn doctor_reports_a_foreign_proc() {
    if !root_with(&["unshare"]) {
        return;
    }
    let findings = doctor_through(FOREIGN_PROC, Path::new("/nowhere/s.sock"));
    let finding = findings.iter().find(|it| it["subject"] == "sweep").unwrap();
    println!("{finding}");
    assert_eq!(finding["verdict"], "warn");
    assert!(finding["text"].as_str().unwrap().starts_with(SENTENCE));
    assert!(finding["remedy"].as_str().unwrap().contains("--mount-proc"));
}

/// Starts a daemon. Returns it with its pid in the test's namespace.
fn start(flags: &[&str], with_pidfds: bool) -> (TestDaemon, Pid) {
    let sweep = format!("{}ms", SWEEP.as_millis());
    let flags = [flags, &["--sweep-interval", &sweep]].concat();
    let launch = Launch::with(&flags).through(FOREIGN_PROC);
    let pidfd_open: Denied = (libc::SYS_pidfd_open.into(), Some(Errno::NOSYS));
    let denied = (!with_pidfds).then_some(pidfd_open);
    let mut daemon = launch.spawn_by(|command| spawn_denied(command, denied.as_slice()));
    daemon.serves();
    let inside = children_of(daemon.started());
    assert_eq!(inside.len(), 1, "unshare has one child, the daemon");
    (daemon, inside[0])
}

fn fork_server_in(namespace_of: Pid) -> ForkServer {
    let mut program = Command::new("nsenter");
    let target = namespace_of.as_raw_nonzero().to_string();
    program
        .args(["--target", &target, "--pid", "--"])
        .arg(env!("CARGO_BIN_EXE_fork_server"))
        .arg(KEEP_ZOMBIES);
    ForkServer::open(program).unwrap()
}
