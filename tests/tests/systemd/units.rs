//! What the units allow, and the other ways to run the daemon as a service.

use std::process::Command;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::machine::{Machine, SOCKET, units};
use reaper_tests::wait::eventually;

/// The exposure of the system unit, as `systemd-analyze security` computes it, must not exceed this.
const MAX_EXPOSURE: f64 = 2.0;

#[test]
fn the_system_unit_is_hardened() {
    if !reaper_tests::daemon::has_program("systemd-analyze") {
        return reaper_tests::expect::skip_without("systemd", "systemd-analyze is not installed");
    }
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(units().join("system/reaperd.service"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("Overall exposure level"));
    let (_, level) = line.and_then(|line| line.split_once("service: ")).unwrap();
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    reaper_tests::expect::measured("exposure of reaperd.service", level);
    assert!(level <= MAX_EXPOSURE, "{text}");
}

/// The restrictions of the unit and those of the daemon itself fit together.
#[test]
fn the_sandbox_of_the_daemon_works_within_that_of_the_unit() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.start("reaperd.service");
    let (status, body) = machine.request("GET /v1/health", "").unwrap();
    assert_eq!(status, 200);
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    let user = machine.run(&["id", "-u", "reaperd"]);
    let sandbox = &health["sandbox"];
    assert_eq!(sandbox["user"].to_string(), user);
    assert_eq!(sandbox["capabilities"], serde_json::json!([]));
    assert_eq!(sandbox["seccomp"], "filter");
    assert_eq!(sandbox["no_new_privs"], true);
    let outside: serde_json::Value = TestDaemon::start(&[]).get("/v1/health").unwrap();
    assert_eq!(sandbox["landlock"], outside["sandbox"]["landlock"]);
    assert_eq!(health["memory"]["kind"], "memfd_secret");
    assert_eq!(health["sources"]["pidfd"], "up");
    // Its socket is not refused by RestrictAddressFamilies=: it is the machine that has no events.
    eventually("netlink has been tried", || {
        let journal = machine.journal();
        assert!(!journal.contains("denied"), "{journal}");
        journal.contains("netlink is down: not in the initial pid namespace")
    });
}

#[test]
fn a_service_with_a_dynamic_user_listens_in_its_runtime_directory() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write(
        "/run/systemd/system/reaperd-alone.service",
        "[Service]\nType=notify\nDynamicUser=yes\nRuntimeDirectory=reaperd\nExecStart=/usr/bin/reaperd daemon\n",
    );
    machine.start("reaperd-alone.service");
    let (status, _) = machine.request("GET /v1/health", "").unwrap();
    assert_eq!(status, 200);
    let mode = machine.run(&["stat", "--format=%a", "/run/reaperd", SOCKET]);
    assert_eq!(mode, "755\n600");
    machine.run(&["systemctl", "stop", "reaperd-alone.service"]);
    assert_eq!(
        machine.property("reaperd-alone.service", "Result"),
        "success"
    );
}

#[test]
fn a_path_that_contradicts_the_socket_unit_is_an_error_that_is_not_repeated() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write(
        "/run/systemd/system/reaperd.service.d/other.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/reaperd daemon --socket /run/other.sock\n",
    );
    let output = machine.try_run(&["systemctl", "start", "reaperd.service"]);
    assert!(!output.status.success());
    assert_eq!(machine.property("reaperd.service", "ExecMainStatus"), "2");
    assert_eq!(machine.property("reaperd.service", "NRestarts"), "0");
    let journal = machine.journal();
    let sentence = format!(
        "the service manager passes the socket {SOCKET}, and --socket, REAPERD_SOCKET or a file names \
         /run/other.sock"
    );
    assert!(journal.contains(&sentence), "{journal}");
}

#[test]
fn a_user_unit_starts_with_its_first_client_and_without_a_login() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.run(&["useradd", "--uid", "2001", "--create-home", "someone"]);
    machine.run(&["mkdir", "-p", "/var/lib/systemd/linger"]);
    machine.run(&["loginctl", "enable-linger", "someone"]);
    let as_user = |command: &[&str]| {
        let user = [
            "setpriv",
            "--reuid=2001",
            "--regid=2001",
            "--clear-groups",
            "env",
            "XDG_RUNTIME_DIR=/run/user/2001",
        ];
        machine.try_run(&[&user, command].concat())
    };
    eventually("the user's manager runs", || {
        as_user(&["systemctl", "--user", "start", "reaperd.socket"])
            .status
            .success()
    });
    let state = || {
        let output = as_user(&["systemctl", "--user", "is-active", "reaperd.service"]);
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    };
    assert_eq!(state(), "inactive");
    let listed = as_user(&["reaperd", "ls"]);
    assert!(listed.status.success(), "{listed:?}\n{}", machine.journal());
    assert_eq!(state(), "active");
}
