//! What the tests that run in a machine share: its service manager, and a daemon that is held in its start, so
//! that there is a time without one.

use std::fs;
use std::process::Command;

use reaper_tests::daemon::Requests;
use reaper_tests::machine::SOCKET;
use reaper_tests::wait::eventually;

pub(crate) const UNIT: &str = "reaperd.service";
/// While this file exists, the service does not start.
const HOLD: &str = "/run/hold-reaperd";
const DROP_IN: &str = "/etc/systemd/system/reaperd.service.d/test.conf";

/// Runs a command, which must succeed, and returns what it prints.
pub(crate) fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {printed}{complaints}"
    );
    printed.trim_end().to_owned()
}

/// A property of the service.
pub(crate) fn property(name: &str) -> String {
    run(&["systemctl", "show", "--value", "--property", name, UNIT])
}

/// Starts the service, which can be held and is started again as often as it ends.
pub(crate) fn start() -> Requests {
    let wait = format!("while [ -e {HOLD} ]; do sleep 0.01; done");
    let drop_in =
        format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStartPre=/bin/sh -c \"{wait}\"\n");
    fs::create_dir_all(DROP_IN.trim_end_matches("/test.conf")).unwrap();
    fs::write(DROP_IN, drop_in).unwrap();
    run(&["systemctl", "daemon-reload"]);
    run(&["systemctl", "start", "reaperd.socket", UNIT]);
    Requests::to(SOCKET.as_ref())
}

/// Ends the daemon by `end`, and does `meanwhile` between the end of the former processes and the start of the
/// next ones. Returns what `end` has returned once the daemon serves again.
pub(crate) fn away<T>(end: impl FnOnce() -> T, meanwhile: impl FnOnce()) -> T {
    let former = property("MainPID");
    fs::write(HOLD, "").unwrap();
    let ended = end();
    eventually("the service is held in its start", || {
        property("SubState") == "start-pre"
    });
    assert!(
        !fs::exists(format!("/proc/{former}")).unwrap(),
        "there is no daemon"
    );
    meanwhile();
    fs::remove_file(HOLD).unwrap();
    eventually("another daemon serves", || {
        property("ActiveState") == "active"
    });
    ended
}

/// What the daemon and its manager have logged.
pub(crate) fn journal() -> String {
    run(&["journalctl", "--no-pager", "--unit=reaperd*"])
}
