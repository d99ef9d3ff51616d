//! `reaperd wait` and `identify` for a session that hangs on several processes.

use super::*;

/// Registers a session of both, the first one first.
fn register(daemon: &TestDaemon, id: &str, pids: [u32; 2]) {
    let [first, second] = pids.map(|pid| pid.to_string());
    let arguments = ["register", "--pid", &first, "--pid", &second, "--id", id];
    let output = run(daemon, &[&arguments[..], &["--mesh", "dev"]].concat());
    assert_eq!(output.code, Some(DONE), "{output:?}");
}

#[test]
fn the_end_of_the_first_process_is_not_that_of_the_session() {
    let daemon = daemon();
    let [first, last] = [exits_with(3), exits_with(4)];
    register(&daemon, "both", [first.id(), last.id()]);
    // A process of one session waits beside it, to see when a waiter would have ended.
    let mut waiter = start(&daemon, &["both"]);
    let by_pid = start(&daemon, &[&first.id().to_string()]);
    eventually("it waits", || holds_pidfd(by_pid.id()));
    end(first, None);
    let output = CommandOutput::by(by_pid.wait_with_output().unwrap());
    assert_eq!(output.code, Some(3), "{output:?}");
    eventually("the daemon has seen it end", || {
        let shown = run(&daemon, &["show", "both", "--json"]).done();
        json(&shown)["session"]["members"][0]["ended"] == true
    });
    let identified = run(&daemon, &["identify", &last.id().to_string()]).done();
    assert!(identified.starts_with("both\t"), "{identified}");
    assert!(waiter.try_wait().unwrap().is_none(), "the session lives");
    end(last, None);
    let output = CommandOutput::by(waiter.wait_with_output().unwrap());
    let seen = json(&output.out);
    // Whether the daemon has the status depends on its sources.
    let expected = if seen["exit"].is_null() { UNKNOWN } else { 4 };
    assert_eq!(output.code, Some(expected), "{output:?}");
    assert_eq!(seen["cause"], "exited", "{seen}");
    daemon.stop();
}
