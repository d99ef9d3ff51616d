//! The native interface, by a client in Python that was written from `docs/http-api.md`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use reaper_tests::daemon::{TestDaemon, reaperd};
use reaper_tests::scale::scaled;

use crate::{Script, file};

/// Runs this file against a daemon with these flags.
fn run(name: &str, flags: &[&str]) {
    run_with(name, flags, |script, _| script);
}

/// As [`run`]; `prepare` adds to the command line once the daemon serves.
fn run_with(name: &str, flags: &[&str], prepare: impl FnOnce(Script, &TestDaemon) -> Script) {
    if let Some(script) = Script::of("python", "python3", name) {
        run_against_daemon(script, flags, prepare);
    }
}

fn run_against_daemon(
    script: Script,
    flags: &[&str],
    prepare: impl FnOnce(Script, &TestDaemon) -> Script,
) {
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

/// Runs this file with the packages for it, against a daemon with these flags.
fn run_with_packages(name: &str, flags: &[&str], variables: &[(&str, &str)]) {
    let Some(script) = Script::with_packages(name) else {
        return;
    };
    let script = script.env("REAPERD", reaperd());
    let with = |script: Script, (name, value): &(&str, &str)| script.env(name, value);
    let script = variables.iter().fold(script, with);
    run_against_daemon(script, flags, |script, _| script);
}

#[test]
fn responses_and_events_have_the_form_of_the_document() {
    let flags = [
        "--tcp",
        "127.0.0.1:0",
        "--public-health",
        "--sweep-interval",
        "500ms",
    ];
    run_with_packages("openapi.py", &flags, &[]);
}

#[test]
fn generated_requests_find_no_fault() {
    let flags = ["--tcp", "127.0.0.1:0"];
    // The same requests in each run, unless there is more time.
    let repeatable = [("SECONDS", "30"), ("SEED", "1")];
    let variables: &[_] = scaled(&[("SECONDS", "200")], &repeatable);
    run_with_packages("generated.py", &flags, variables);
}
