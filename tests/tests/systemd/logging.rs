//! The journal: fields, priorities and times.

use reaper_tests::machine::Machine;
use reaper_tests::wait::eventually_some;
use serde_json::Value;

/// The entries of the journal that match, as JSON.
fn entries(machine: &Machine, matches: &[&str]) -> Vec<Value> {
    let command = [
        "journalctl",
        "--no-pager",
        "--output=json",
        "--unit=reaperd.service",
    ];
    let text = machine.run(&[&command, matches].concat());
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn registration_and_removal_of_a_session_are_found_by_their_fields() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.start("reaperd.service");
    let script = "echo $REAPERD_SESSION_ID; exit 3";
    let output = machine.try_run(&["reaperd", "run", "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let id = String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned();
    let of_session = format!("SESSION_ID={id}");
    let removed = eventually_some("the removal is in the journal", || {
        let found = entries(&machine, &[&of_session]);
        found.into_iter().find(|entry| entry["CAUSE"] == "exited")
    });
    assert_eq!(removed["PRIORITY"], "6");
    assert_eq!(removed["SYSLOG_IDENTIFIER"], "reaperd");
    assert_eq!(removed["_TRANSPORT"], "journal");
    assert!(
        ["pidfd", "sweep"].contains(&removed["SOURCE"].as_str().unwrap()),
        "{removed}"
    );
    let pid = removed["PID_WATCHED"].as_str().unwrap();
    let registered = &entries(&machine, &[&of_session, &format!("PID_WATCHED={pid}")])[0];
    assert_eq!(
        registered["MESSAGE"],
        format!("registered session={id} pid={pid} uid=0")
    );
}

#[test]
fn messages_have_no_time_of_their_own_and_the_filter_is_obeyed() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.write(
        "/run/systemd/system/reaperd.service.d/log.conf",
        "[Service]\nEnvironment=RUST_LOG=error\nExecStart=\nExecStart=/usr/bin/reaperd daemon --log warn,reaperd::sessions=info\n",
    );
    machine.start("reaperd.service");
    machine.run(&["reaperd", "run", "--", "true"]);
    eventually_some("the session is in the journal", || {
        entries(&machine, &["TARGET=reaperd::sessions"])
            .into_iter()
            .next()
    });
    for entry in entries(&machine, &["_TRANSPORT=journal", "_COMM=reaperd"]) {
        let text = entry["MESSAGE"].as_str().unwrap();
        assert!(!text.starts_with('['), "{text}");
        let is_warning = entry["PRIORITY"] != "6";
        assert!(
            is_warning || entry["TARGET"] == "reaperd::sessions",
            "{entry}"
        );
    }
}

/// A confined worker cannot connect to another socket than that of its start.
#[test]
fn a_journal_with_a_new_socket_has_what_the_daemon_logs_then() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.start("reaperd.service");
    let socket = "/run/systemd/journal/socket";
    let inode = || machine.run(&["stat", "--format=%i", socket]);
    let before = inode();
    machine.run(&[
        "systemctl",
        "restart",
        "systemd-journald.socket",
        "systemd-journald.service",
    ]);
    assert_ne!(inode(), before, "it is another socket");
    machine.run(&["reaperd", "run", "--", "true"]);
    eventually_some("the session is in the journal", || {
        entries(&machine, &["TARGET=reaperd::sessions"])
            .into_iter()
            .next()
    });
}
