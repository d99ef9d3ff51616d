//! Processes that live and look as if they did not.

use reaper_tests::daemon::{Events, TestDaemon};
use reaper_tests::nursery::{CUE, Kind, Nursery, signal};
use reaper_tests::wait::eventually;
use rustix::process::Signal;

use crate::ledger::Ledger;
use crate::{line_of, victims};

/// Registers one of each kind and then does to it what looks like an end.
pub(crate) fn register(
    nursery: &mut Nursery,
    daemon: &TestDaemon,
    ledger: &mut Ledger,
    events: &mut Events,
) {
    let mut one = |name: &str, kind: Kind| {
        let pid = nursery.start_one(kind).unwrap();
        ledger.register(daemon, &format!("bystander: {name}"), pid);
        pid
    };
    one("idle", Kind::Idle { megabytes: 0 });
    one("threads", Kind::Threads { number: 3 });
    one("thread churn", Kind::Churn);
    one("thread churn without a leader", Kind::LeaderlessChurn);
    let stopped = one("stopped", Kind::Idle { megabytes: 0 });
    signal(stopped, Signal::STOP).unwrap();
    eventually("it is stopped", || {
        line_of(stopped, "status", "State:").is_some_and(|state| state.starts_with('T'))
    });
    let executed = one("a worker has executed", Kind::WorkerExec);
    signal(executed, CUE).unwrap();
    eventually("a worker executes", || {
        line_of(executed, "comm", "").is_some_and(|name| name == "sleep" || name == "busybox")
    });
    let leaderless = one("its leader has left", Kind::LeaderFirst);
    signal(leaderless, CUE).unwrap();
    victims::leader_has_left(leaderless);

    let family = nursery.start(1, Kind::ParentFirst).unwrap();
    let [parent, child] = family[..] else {
        panic!("a parent and its child, not {family:?}")
    };
    ledger.register(daemon, "parent of a bystander", parent);
    ledger.register(daemon, "bystander: orphan", child);
    ledger.doom("parent of a bystander", Some(0));
    signal(parent, CUE).unwrap();
    ledger.settle(events);
    ledger.agree(daemon);
}
