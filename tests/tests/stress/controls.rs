//! Controls: processes that stay alive through changes that resemble an exit.

use reaper_tests::daemon::{Events, TestDaemon};
use reaper_tests::fork_server::{CUE, ForkServer, Kind, signal};
use reaper_tests::wait::eventually;
use rustix::process::Signal;

use crate::tracker::Tracker;
use crate::{line_of, test_processes};

/// Registers one process of each kind, then stops it, ends its leader, and so on.
pub(crate) fn register(
    fork_server: &mut ForkServer,
    daemon: &TestDaemon,
    tracker: &mut Tracker,
    events: &mut Events,
) {
    let mut one = |name: &str, kind: Kind| {
        let pid = fork_server.start_one(kind).unwrap();
        tracker.register(daemon, &format!("control: {name}"), pid);
        pid
    };
    one("idle", Kind::Idle { megabytes: 0 });
    one("threads", Kind::Threads { number: 3 });
    one("thread churn", Kind::Churn);
    one("thread churn without a leader", Kind::LeaderlessChurn);
    let stopped = one("stopped", Kind::Idle { megabytes: 0 });
    signal(stopped, Signal::STOP).unwrap();
    eventually("the process is stopped", || {
        line_of(stopped, "status", "State:").is_some_and(|state| state.starts_with('T'))
    });
    let executed = one("exec by a worker", Kind::WorkerExec);
    signal(executed, CUE).unwrap();
    eventually("the worker has executed", || {
        line_of(executed, "comm", "").is_some_and(|name| name == "sleep" || name == "busybox")
    });
    let leaderless = one("exited leader", Kind::LeaderFirst);
    signal(leaderless, CUE).unwrap();
    test_processes::wait_for_leader_exit(leaderless);

    let family = fork_server.start(1, Kind::ParentFirst).unwrap();
    let [parent, child] = family[..] else {
        panic!("expected a parent and its child, got {family:?}")
    };
    tracker.register(daemon, "parent of a control", parent);
    tracker.register(daemon, "control: orphan", child);
    tracker.expect_end("parent of a control", Some(0));
    signal(parent, CUE).unwrap();
    tracker.wait_for_removals(events);
    tracker.check_against(daemon);
}
