//! One worker is replaced: what stays, what is reported, and when there is no other one.

use std::fs;
use std::os::unix::net::UnixStream;

use reaper_tests::daemon::{Launch, TestDaemon, children_of};
use reaper_tests::history::History;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{eventually, eventually_some};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// The worker, while the monitor has one.
pub(crate) fn worker_of(daemon: &TestDaemon) -> Option<Pid> {
    children_of(daemon.started()).first().copied()
}

/// Kills the worker and returns when another one serves.
fn replace_worker(daemon: &TestDaemon) {
    let former = daemon.pid();
    daemon.signal_worker(Signal::KILL);
    eventually("another worker serves", || {
        let health = daemon.get::<Value>("/v1/health");
        health.is_ok_and(|health| health["pid"] != former)
    });
}

#[test]
fn sessions_tokens_and_the_history_outlive_a_killed_worker() {
    let daemon = TestDaemon::start(&[]);
    let mut history = History::begin(&daemon);
    let process = TestProcess::start();
    let labels = json!({ "job": "7", "empty": "" });
    let details = json!({ "cwd": "/x".repeat(400), "groups": ["a", "b"], "labels": labels });
    let token = daemon
        .try_register_with("stays", process.pid(), details)
        .unwrap();
    let labelled = "/v1/sessions?label=job=7";
    let listed: Value = daemon.get(labelled).unwrap();
    assert_eq!(listed["sessions"][0]["labels"], labels);
    for restarts in 1..=3 {
        replace_worker(&daemon);
        let health: Value = daemon.get("/v1/health").unwrap();
        assert_eq!(health["restarts"], restarts);
        assert_eq!(health["monitor_pid"], daemon.started());
        assert_eq!(health["carried_over"]["ended"], 0);
        assert_eq!(health["carried_over"]["is_kept"], true);
        assert_eq!(daemon.get::<Value>(labelled).unwrap(), listed);
        assert!(daemon.accepts(&token));
    }
    history.read_on(&daemon);
    // New registrations and removals are as before.
    drop(process);
    eventually("its end is seen", || !daemon.lists("stays"));
    history.read_on(&daemon);
    let ended: Value = daemon.get("/v1/sessions/ended").unwrap();
    assert_eq!(ended["sessions"][0]["labels"], labels);
    replace_worker(&daemon);
    assert_eq!(daemon.get::<Value>("/v1/sessions/ended").unwrap(), ended);
    let removals: usize = history.removals.values().sum();
    assert_eq!(removals, 1);
    daemon.stop();
}

#[test]
fn a_session_of_several_processes_outlives_a_worker_with_those_that_have_ended() {
    let daemon = TestDaemon::start(&[]);
    let mut processes: Vec<_> = (0..4).map(|_| TestProcess::start()).collect();
    let pids: Vec<_> = processes.iter().map(TestProcess::pid).collect();
    let token = daemon
        .try_register_with("set", pids[0], json!({ "pids": pids }))
        .unwrap();
    let list = || -> Value { daemon.get("/v1/sessions").unwrap() };
    let ended = || -> Vec<bool> {
        let list = list();
        let members = list["sessions"][0]["members"].as_array().unwrap().iter();
        members.map(|it| it["ended"] == true).collect()
    };
    // The first one, whose id is that of the record.
    processes[0].kill();
    eventually("it is shown", || ended() == [true, false, false, false]);
    let before = list();
    replace_worker(&daemon);
    assert_eq!(list(), before);
    assert!(daemon.accepts(&token));
    let sources: Value = daemon.get("/v1/sources").unwrap();
    assert_eq!(sources["processes"], 3);
    // One ends while there is no worker.
    daemon.signal(Signal::STOP);
    kill_worker(&daemon);
    processes[2].kill();
    daemon.signal(Signal::CONT);
    eventually("that is found", || ended() == [true, false, true, false]);
    processes[1].kill();
    eventually("it goes on", || ended() == [true, true, true, false]);
    assert!(daemon.accepts(&token));
    processes[3].kill();
    eventually("it ends with the last", || !daemon.lists("set"));
    daemon.stop();
}

/// Kills the worker of a stopped monitor, and waits until it has ended.
fn kill_worker(daemon: &TestDaemon) {
    daemon.signal_worker(Signal::KILL);
    let worker = worker_of(daemon).unwrap();
    let stat = format!("/proc/{}/stat", worker.as_raw_nonzero());
    eventually("the worker has ended", || {
        fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "))
    });
}

#[test]
fn a_death_between_two_workers_is_reported_once_and_as_such() {
    let daemon = TestDaemon::start(&[]);
    let mut history = History::begin(&daemon);
    let stays = TestProcess::start();
    let mut ends = TestProcess::start();
    daemon.register("stays", stays.pid());
    let tokens = ["ends", "also"].map(|id| daemon.register(id, ends.pid()));
    daemon.signal(Signal::STOP);
    kill_worker(&daemon);
    ends.kill();
    daemon.signal(Signal::CONT);
    eventually("both sessions are gone", || {
        !daemon.lists("ends") && !daemon.lists("also")
    });
    assert!(daemon.lists("stays"));
    assert!(tokens.iter().all(|token| !daemon.accepts(token)));
    history.read_on(&daemon);
    let removals: Vec<_> = history.removals.iter().collect();
    let restart = ("exited".to_owned(), "restart".to_owned());
    assert_eq!(removals, [(&restart, &2)]);
    let health: Value = daemon.get("/v1/health").unwrap();
    assert_eq!(health["carried_over"]["ended"], 2);
    assert!(
        daemon
            .log()
            .contains("carried over 2 sessions, 2 ended while away")
    );
    daemon.stop();
}

#[test]
fn connections_wait_while_there_is_no_worker() {
    let daemon = TestDaemon::start(&[]);
    daemon.signal(Signal::STOP);
    kill_worker(&daemon);
    let waiting = UnixStream::connect(daemon.socket()).unwrap();
    daemon.signal(Signal::CONT);
    let version: Value = daemon.get("/v1/version").unwrap();
    assert!(version["daemon_version"].is_string());
    drop(waiting);
    daemon.stop();
}

#[test]
fn a_worker_that_cannot_start_again_ends_the_monitor_in_the_end() {
    let mut daemon = TestDaemon::start(&[]);
    // The folder of the socket is not private any more, so no worker can listen there.
    let folder = daemon.socket().parent().unwrap().to_owned();
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    daemon.signal_worker(Signal::KILL);
    let code = daemon.wait().code();
    assert_eq!(code, Some(1), "{}", daemon.log());
    let log = daemon.log();
    assert!(log.contains("20 workers in a row ended before they served; giving up"));
}

#[test]
fn sigterm_without_a_worker_ends_the_monitor() {
    let mut daemon = TestDaemon::start(&[]);
    daemon.signal(Signal::STOP);
    daemon.signal_worker(Signal::KILL);
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::CONT);
    let status = daemon.wait();
    assert!(status.code().is_some(), "{status:?}");
    assert!(UnixStream::connect(daemon.socket()).is_err());
}

#[test]
fn another_daemon_can_take_the_path_after_an_orderly_end() {
    let daemon = TestDaemon::start(&[]);
    replace_worker(&daemon);
    let lock = daemon.socket().with_extension("sock.lock");
    let written = fs::read_to_string(lock).unwrap();
    assert_eq!(
        written.trim(),
        daemon.pid().to_string(),
        "the lock names the worker"
    );
    daemon.stop();
}

#[test]
fn without_a_monitor_nothing_is_kept() {
    let daemon = Launch::with(&[]).one_process().start();
    let health: Value = daemon.get("/v1/health").unwrap();
    assert_eq!(health["carried_over"]["is_kept"], false);
    daemon.stop();
}

#[test]
fn the_worker_of_another_user_is_replaced_as_that_user() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can start a worker as another user");
        return;
    }
    let daemon = Launch::with(&["--user", "2001", "--allow-uid", "0"]).for_user(2001);
    let daemon = daemon.start();
    replace_worker(&daemon);
    let health: Value = daemon.get("/v1/health").unwrap();
    assert_eq!(health["sandbox"]["user"], 2001);
    assert_eq!(health["sandbox"]["capabilities"], json!([]));
    assert_eq!(health["sandbox"]["bounding_set"], 0);
    assert_eq!(health["sandbox"]["seccomp"], "filter");
    assert_eq!(health["sandbox"]["landlock"], "full");
    kill_process(
        eventually_some("a worker", || worker_of(&daemon)),
        Signal::KILL,
    )
    .unwrap();
    eventually("it is replaced again", || {
        let health = daemon.get::<Value>("/v1/health");
        health.is_ok_and(|health| health["restarts"] == 2)
    });
    daemon.stop();
}
