//! Failures, each with its exit code and sentence.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use reaper_tests::daemon::private_folder;
use reaper_tests::wait::eventually;
use rustix::process::{Signal, kill_process};

use super::*;

/// Runs a daemon that must fail to start.
fn daemon_on(socket: &Path) -> CommandOutput {
    let socket = socket.to_str().unwrap();
    CommandOutput::of(&mut command(&["daemon", "--socket", socket]))
}

#[test]
fn commands_fail_without_a_daemon() {
    let folder = private_folder();
    let socket = folder.path().join("s.sock");
    let socket = socket.to_str().unwrap();
    for arguments in [
        &["ls"][..],
        &["ls", "--json"],
        &["watch"],
        &["watch", "--json"],
        &["rm", "x"],
        &["run", "--", "true"],
    ] {
        let output = CommandOutput::of(command(arguments).args(["--socket", socket]));
        if arguments[0] != "run" {
            output.failed(NO_DAEMON, "no daemon is listening on ");
        }
    }
    let command = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("XDG_RUNTIME_DIR", folder.path());
        command
    };
    let run = ["run", "--socket", socket, "--", "true"];
    CommandOutput::of(&mut command(&run)).failed(NO_DAEMON, "no daemon is listening on ");
    let run = ["run", "--socket", socket, "--best-effort", "--", "true"];
    let output = CommandOutput::of(&mut command(&run));
    assert_eq!(output.code, Some(DONE), "{output:?}");
    assert!(
        output.err.contains("running the command without a session"),
        "{output:?}"
    );
}

#[test]
fn an_unknown_session_has_its_own_exit_code() {
    let daemon = daemon();
    run(&daemon, &["rm", "unknown"]).failed(NO_SESSION, "no session with id \"unknown\"");
    let token = private_folder();
    let file = token.path().join("token");
    fs::write(&file, "ab".repeat(32)).unwrap();
    run(&daemon, &["rm", "--token-file", file.to_str().unwrap()])
        .failed(NO_SESSION, "no session has this token");
    daemon.stop();
}

#[test]
fn unusable_flags_are_usage_errors() {
    for arguments in [
        &["nonsense"][..],
        &["ls", "--pid", "x"],
        &["rm"],
        &["rm", "--uid", "1"],
        &["rm", "--uid", "1", "--token-file", "f"],
        &["daemon", "--max-bytes", "64MB"],
        &["rm", "s", "--token-file", "f"],
        &["run"],
        &["run", "-g", "x", "true"],
        &["daemon", "--sources", "netlnik"],
        &["daemon", "--sweep-interval", "0s"],
        &["daemon", "--ttl", "soon"],
        &["daemon", "--max-sessions", "0"],
        &["daemon", "--require", "nothing"],
        &["daemon", "--allow-uid", "no-such-user"],
        &["daemon", "--socket-group", "no-such-group"],
        &["ls", "--server-uid", "no-such-user"],
        &["daemon", "--register-policy", "everyone"],
        &["demo", "--sources", "all"],
    ] {
        CommandOutput::of(&mut command(arguments)).failed(USAGE, "error: ");
    }
    CommandOutput::of(&mut command(&["daemon", "--allow-uid", "1,no-such-user"]))
        .failed(USAGE, "'no-such-user' for '--allow-uid <USER>'");
}

#[test]
fn a_required_source_that_is_not_enabled_fails_the_start() {
    let folder = private_folder();
    let socket = folder.path().join("s.sock");
    let arguments = [
        "daemon",
        "--sources",
        "sweep",
        "--require",
        "pidfd",
        "--socket",
    ];
    let output = CommandOutput::of(command(&arguments).arg(&socket));
    output.failed(FAILED, "the required source pidfd does not work here");
    assert!(!socket.exists());
}

#[test]
fn a_stale_socket_is_taken_over() {
    let mut daemon = daemon();
    let socket = daemon.socket();
    // Killed, it leaves its socket behind.
    daemon.kill();
    eventually("no process listens", || {
        std::os::unix::net::UnixStream::connect(&socket).is_err()
    });
    assert!(socket.exists());
    CommandOutput::of(command(&["ls", "--socket"]).arg(&socket))
        .failed(NO_DAEMON, "no daemon is listening on ");
    let mut next = command(&["daemon", "--sources", "pidfd", "--socket"]);
    let mut next = next.arg(&socket).stderr(Stdio::null()).spawn().unwrap();
    eventually("another daemon serves on it", || {
        command(&["ls", "--socket"])
            .arg(&socket)
            .output()
            .unwrap()
            .status
            .success()
    });
    kill_process(rustix::process::Pid::from_child(&next), Signal::TERM).unwrap();
    assert!(next.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn an_unusable_socket_path_is_refused_with_its_reason() {
    let folder = private_folder();
    let inside = |name: &str| folder.path().join(name);
    let too_long = inside(&"x".repeat(120));
    daemon_on(&too_long).failed(FAILED, "bytes long, and the system allows");

    fs::write(inside("file"), "").unwrap();
    daemon_on(&inside("file")).failed(FAILED, "exists and is not a socket");
    assert!(inside("file").exists());

    let _listener = UnixListener::bind(inside("taken")).unwrap();
    daemon_on(&inside("taken")).failed(FAILED, "some other program listens on");

    fs::create_dir(inside("open")).unwrap();
    fs::set_permissions(inside("open"), Permissions::from_mode(0o775)).unwrap();
    daemon_on(&inside("open/s.sock")).failed(FAILED, "can be changed by others (mode 0775)");

    std::os::unix::fs::symlink(folder.path(), inside("link")).unwrap();
    daemon_on(&inside("link/s.sock")).failed(FAILED, "is a link or not a folder");

    fs::create_dir(inside("shared")).unwrap();
    fs::set_permissions(inside("shared"), Permissions::from_mode(0o777)).unwrap();
    let output = daemon_on(&inside("shared/run/s.sock"));
    output.failed(FAILED, "other users may replace the socket");
    assert!(output.err.contains("chmod go-w"), "{output:?}");
    assert!(!inside("shared/run").exists());

    daemon_on(Path::new("/proc/sys/s.sock")).failed(FAILED, "");
    if rustix::process::geteuid().is_root() {
        fs::create_dir(inside("foreign")).unwrap();
        fs::set_permissions(inside("foreign"), Permissions::from_mode(0o700)).unwrap();
        chown(inside("foreign"), Some(65534), None).unwrap();
        daemon_on(&inside("foreign/s.sock")).failed(FAILED, "belongs to user 65534");
    } else {
        // A folder of root, not writable for this user.
        daemon_on(Path::new("/etc/s.sock")).failed(FAILED, "belongs to user 0");
    }
}

#[test]
fn a_second_daemon_does_not_take_the_socket_of_a_live_one() {
    let daemon = daemon();
    let sentence = format!("a daemon (pid {}) already serves", daemon.pid());
    daemon_on(&daemon.socket()).failed(FAILED, &sentence);
    run(&daemon, &["ls"]).done();
    daemon.stop();
}
