//! Reloads that are about other users. As root.

use std::os::unix::fs::{PermissionsExt as _, chown};

use reaper_tests::expect::root_with;
use reaper_tests::raw_http;
use reaper_tests::test_process::TestProcess;
use reaper_tests::user::as_user;
use reaper_tests::wait::eventually;

use super::reload::{PIDFD, status, version};
use super::*;

#[test]
fn users_are_let_in_and_kept_out() {
    if !root_with(&[]) {
        return;
    }
    for flags in [&[][..], &["--no-monitor"]] {
        let configured = Configured::start("allow-uid = [2003]\n", &[&PIDFD[..], flags].concat());
        let socket = configured.daemon.socket();
        configured.daemon_folder_is_open();
        let of_alice = || as_user(ALICE, || status(&socket, &version()));
        assert_eq!(of_alice(), 0, "the system keeps this user out");
        configured.reload("allow-uid = [2001]\n");
        eventually("the user is served", || of_alice() == 200);
        configured.reload("allow-uid = [2002]\n");
        eventually("the user is kept out", || of_alice() == 0);
        assert_eq!(as_user(2_002, || status(&socket, &version())), 200);
        // By name: a worker in its sandbox has no name service.
        configured.reload("allow-uid = [\"daemon\"]\n");
        let by_name = || as_user(1, || status(&socket, &version()));
        eventually("the named user is served", || by_name() == 200);
        configured.reload("allow-uid = [2003]\n");
        eventually("the named user is kept out", || by_name() == 0);
        assert_eq!(
            status(&socket, &version()),
            200,
            "root is served all the time"
        );
        configured.daemon.stop();
    }
}

#[test]
fn a_confined_daemon_that_served_no_other_user_needs_a_restart_for_the_first_one() {
    if !root_with(&[]) {
        return;
    }
    let configured = Configured::start("", &PIDFD);
    configured.reload("allow-uid = [2001]\n");
    eventually("the option is named", || {
        configured.health()["needs_restart"][0] == "allow-uid"
    });
    let socket = configured.daemon.socket();
    assert_eq!(as_user(ALICE, || status(&socket, &version())), 0);
}

#[test]
fn the_register_policy_changes() {
    if !root_with(&[]) {
        return;
    }
    let configured = Configured::start("allow-uid = [2001]\n", &PIDFD);
    let process = TestProcess::start();
    let socket = configured.daemon.socket();
    configured.daemon_folder_is_open();
    let mut number = 0;
    let mut register = || {
        number += 1;
        let request = raw_http::registration(&format!("{number:064x}"), "s", process.pid());
        as_user(ALICE, || status(&socket, &request))
    };
    assert_eq!(register(), 403, "the process belongs to root");
    configured.reload("allow-uid = [2001]\nregister-policy = \"any\"\n");
    assert_eq!(register(), 200);
    configured.reload("allow-uid = [2001]\nregister-policy = \"self\"\n");
    assert_eq!(register(), 403);
    configured.daemon.stop();
}

#[test]
fn a_worker_of_another_user_reloads_a_file_that_only_root_can_read() {
    if !root_with(&[]) {
        return;
    }
    let configured = Configured::by(
        "ttl = \"1h\"\n",
        &["--user", "2001", "--sources", "pidfd"],
        |launch| launch.for_user(ALICE),
    );
    fs::set_permissions(&configured.file.path, fs::Permissions::from_mode(0o600)).unwrap();
    configured.reload("ttl = \"2h\"\n");
    let log = configured.daemon.log();
    assert!(
        log.contains("configuration reloaded: ttl \"1h\" -> \"2h\"\n"),
        "{log}"
    );
    // The monitor checks the file as root.
    chown(&configured.file.path, Some(ALICE), None).unwrap();
    configured.daemon.signal(Signal::HUP);
    eventually("the foreign file is refused", || {
        configured.health()["error"]
            .as_str()
            .is_some_and(|it| it.contains("belongs to user 2001"))
    });
    configured.daemon.stop();
}

impl Configured {
    /// Lets other users into the folder of the socket, in which the daemon was not to create it.
    fn daemon_folder_is_open(&self) {
        let socket = self.daemon.socket();
        let mode = fs::Permissions::from_mode(0o711);
        fs::set_permissions(socket.parent().unwrap(), mode).unwrap();
    }
}
