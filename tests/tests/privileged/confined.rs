//! The daemon with restrictions: as the user `nobody`, and in new namespaces.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reaper_tests::daemon::{Launch, TestDaemon, children_of, doctor_through, reaperd};
use reaper_tests::expect::root_with;
use reaper_tests::wait::some_within;
use rustix::process::{Signal, kill_process};

const UID_NOBODY: &[&str] = &[
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--bounding-set",
    "-all",
    "--inh-caps",
    "-all",
];
const PID_NAMESPACE: &[&str] = &["unshare", "--pid", "--fork", "--mount-proc"];
const NET_NAMESPACE: &[&str] = &["unshare", "--net"];

/// Checks that a kill is still reported by one of these sources.
fn check_kill_is_reported(daemon: &TestDaemon, by: &[&str]) {
    let removal = daemon.events().removal_after_kill(daemon, "dying").data;
    assert_eq!(removal.cause, "exited");
    assert!(
        by.contains(&removal.source.as_deref().unwrap()),
        "{removal:?}"
    );
    assert!(!daemon.lists("dying"));
}

/// Runs `doctor` behind this prefix. Returns the finding about the source and its remedy.
fn doctor_on(source: &str, prefix: &[&str]) -> (String, String) {
    let findings = doctor_through(prefix, Path::new("/nowhere/s.sock"));
    let finding = findings.iter().find(|it| it["subject"] == source).unwrap();
    println!("{source}: {finding}");
    let text = |field: &str| finding[field].as_str().unwrap().to_owned();
    (
        format!("{} {}", text("verdict"), text("text")),
        text("remedy"),
    )
}

#[test]
fn as_an_unprivileged_user_pidfd_and_sweep_work_and_doctor_reports_what_is_missing() {
    if !root_with(&["setpriv"]) {
        return;
    }
    let launch = Launch::with(&["--sources", "auto"])
        .through(UID_NOBODY)
        .for_user(65534);
    let daemon = launch.start();
    assert!(daemon.settled("ebpf").is_err());
    assert!(daemon.settled("pidfd").is_ok() && daemon.settled("sweep").is_ok());
    // Since 6.6 the connector needs no capability.
    check_kill_is_reported(&daemon, &["pidfd", "netlink"]);
    daemon.stop();

    let (finding, remedy) = doctor_on("ebpf", UID_NOBODY);
    assert!(finding.starts_with("warn not permitted"), "{finding}");
    assert!(remedy.contains("CAP_BPF and CAP_PERFMON"), "{remedy}");
}

#[test]
fn in_a_pid_namespace_pidfd_and_sweep_work_and_doctor_reports_what_is_missing() {
    if !root_with(&["unshare"]) {
        return;
    }
    let daemon = Launch::with(&["--sources", "auto"])
        .through(PID_NAMESPACE)
        .start();
    assert!(daemon.settled("netlink").is_err() && daemon.settled("ebpf").is_err());
    assert!(daemon.settled("pidfd").is_ok() && daemon.settled("sweep").is_ok());
    // Its pids differ from the test's, so the session is registered from inside the namespace.
    let inside = children_of(daemon.started());
    assert_eq!(inside.len(), 1, "unshare has one child, the daemon");
    let enter = [
        "nsenter",
        "--target",
        &inside[0].to_string(),
        "--pid",
        "--mount",
    ];
    let mut events = daemon.events();
    let run = [
        "run",
        "--name",
        "inner",
        "--socket",
        daemon.socket().to_str().unwrap(),
        "--",
        "sleep",
        "600",
    ]
    .map(str::to_owned);
    let mut inner = Command::new(enter[0])
        .args(&enter[1..])
        .arg(reaperd())
        .args(&run)
        .spawn()
        .unwrap();
    let session = some_within(Duration::from_secs(20), "the command is registered", || {
        daemon.list().into_iter().next()
    });
    for pid in children_of(inner.id()) {
        kill_process(pid, Signal::KILL).unwrap();
    }
    let removal = events.removal_of(&session.session_id).data;
    assert_eq!(
        (removal.cause.as_str(), removal.source.as_deref()),
        ("exited", Some("pidfd"))
    );
    inner.wait().unwrap();
    drop(events);
    kill_process(inside[0], Signal::TERM).unwrap();
    daemon.stopped();

    let (finding, remedy) = doctor_on("netlink", PID_NAMESPACE);
    assert!(
        finding.starts_with("warn not in the initial pid namespace"),
        "{finding}"
    );
    assert!(remedy.contains("--pid=host"), "{remedy}");
    let (finding, remedy) = doctor_on("ebpf", PID_NAMESPACE);
    assert!(
        finding.contains("in a pid namespace of its own"),
        "{finding}"
    );
    assert!(remedy.contains("--pid=host"), "{remedy}");
}

#[test]
fn an_unavailable_required_source_fails_the_start_with_reason_and_remedy() {
    if !root_with(&["unshare"]) {
        return;
    }
    let launch = Launch::with(&["--require", "netlink"]).through(NET_NAMESPACE);
    let mut daemon = launch.spawn();
    let status = daemon.wait();
    let log = daemon.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let sentence = "the required source netlink does not work here: not in the initial network";
    assert!(log.contains(sentence), "{log}");
    assert!(log.contains("  try: run in the host's network"), "{log}");
    assert!(!daemon.socket().exists());

    // The selftest fails as well.
    let selftest = Command::new(NET_NAMESPACE[0])
        .args(&NET_NAMESPACE[1..])
        .arg(reaperd())
        .args(["selftest", "--sources", "netlink"])
        .output()
        .unwrap();
    assert_eq!(selftest.status.code(), Some(1), "{selftest:?}");
    let stderr = String::from_utf8_lossy(&selftest.stderr);
    assert!(stderr.contains("netlink does not work here"), "{stderr}");
    assert!(
        stderr.contains("  try: run in the host's network"),
        "{stderr}"
    );

    // If it is not required, the daemon works without it.
    let daemon = Launch::with(&[]).through(NET_NAMESPACE).start();
    assert!(daemon.settled("netlink").is_err());
    check_kill_is_reported(&daemon, &["pidfd", "ebpf"]);
    daemon.stop();
}
