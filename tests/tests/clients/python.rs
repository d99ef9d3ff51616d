//! The native interface, by a client in Python that was written from `docs/http-api.md`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use reaper_tests::daemon::TestDaemon;

use crate::{Script, file};

/// Runs this file against a daemon with these flags.
fn run(name: &str, flags: &[&str]) {
    run_with(name, flags, |script, _| script);
}

/// As [`run`]; `prepare` adds to the command line once the daemon serves.
fn run_with(name: &str, flags: &[&str], prepare: impl FnOnce(Script, &TestDaemon) -> Script) {
    let Some(script) = Script::of("python", "python3", name) else {
        return;
    };
    let daemon = TestDaemon::start(flags);
    let script = script
        .arg(daemon.socket())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    prepare(script, &daemon).run();
    daemon.stop();
}

#[test]
fn sessions_are_registered_looked_up_listed_renewed_and_removed() {
    // Short, because a test waits for the end of an idle connection, and others for the sweep.
    let flags = ["--keep-alive", "2s", "--sweep-interval", "500ms"];
    run("sessions.py", &flags);
}

#[test]
fn streams_continue_or_report_a_gap() {
    run("events.py", &[]);
}

#[test]
fn ends_of_processes_have_cause_and_exit() {
    run("deaths.py", &[]);
}

#[test]
fn each_limit_is_a_429_that_goes_with_its_cause() {
    let of_sessions = ["--max-sessions-per-uid=10", "--max-bytes-per-uid=32KiB"];
    let of_connections = [
        "--max-connections=20",
        "--max-connections-per-uid=8",
        "--max-streams-per-uid=3",
    ];
    run("limits.py", &[&of_sessions[..], &of_connections].concat());
}

#[test]
fn every_documented_error_has_its_status_code_and_field() {
    let mut flags = vec!["--strict-replace"];
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        flags.extend(["--allow-uid", "2001,2002"]);
    }
    run_with("errors.py", &flags, |script, daemon| {
        if is_root {
            // These users must reach the socket.
            let socket = daemon.socket();
            let folder = socket.parent().unwrap();
            fs::set_permissions(folder, Permissions::from_mode(0o711)).unwrap();
        }
        script.arg(file("../docs/http-api.md"))
    });
}

#[test]
fn over_tcp_the_server_proves_itself_and_the_client_presents_the_bearer() {
    run("tcp.py", &["--tcp", "127.0.0.1:0"]);
}
