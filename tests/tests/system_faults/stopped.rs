//! The daemon is stopped for a while, as by SIGSTOP or in a frozen cgroup, while processes start
//! and end.

use std::collections::BTreeSet;
use std::time::Duration;

use reaper_tests::crowd::{Crowd, storm};
use reaper_tests::daemon::{Events, TestDaemon, session_of};
use reaper_tests::wait::Deadline;

use crate::scenario::wait_until_only;
use crate::{Extent, extent};

/// A stopped daemon and the processes that it watches.
struct Harness {
    daemon: TestDaemon,
    events: Events,
    controls: Crowd,
    dying: Crowd,
}

impl Harness {
    fn stopped(flags: &[&str]) -> Self {
        let daemon = TestDaemon::start(flags);
        let (controls, dying) = (Crowd::start(10).unwrap(), Crowd::start(10).unwrap());
        let events = daemon.events();
        daemon.register_all(controls.pids().chain(dying.pids()));
        daemon.suspend();
        Self {
            daemon,
            events,
            controls,
            dying,
        }
    }

    fn resume_and_check(self, dead: &BTreeSet<String>) {
        let Self {
            daemon,
            events,
            controls,
            dying: _reaped,
        } = self;
        daemon.resume();
        wait_until_only(&controls, &daemon);
        daemon.stop();
        events.check_each_removed_once(dead);
    }
}

fn stop_duration() -> Duration {
    match extent() {
        Extent::Bounded => Duration::from_secs(3),
        Extent::Whole => Duration::from_mins(1),
    }
}

/// Starts and ends unrelated processes until the deadline.
fn churn_until(deadline: Deadline) {
    while !deadline.has_passed() {
        storm(1).unwrap();
    }
}

#[test]
fn deaths_during_a_stop_are_reported_after_it_and_live_sessions_stay() {
    // All daemons are stopped together, and each misses many sweeps.
    let mut harnesses: Vec<_> = ["auto", "pidfd", "netlink", "ebpf", "sweep"]
        .map(|sources| ["--sources", sources, "--sweep-interval", "500ms"])
        .iter()
        .map(|flags| Harness::stopped(flags))
        .collect();
    let stop = Deadline::after(stop_duration());
    let mut dead = Vec::new();
    for harness in &mut harnesses {
        dead.push(harness.dying.sessions());
        harness.dying.kill().unwrap();
    }
    churn_until(stop);
    for (harness, dead) in harnesses.into_iter().zip(&dead) {
        harness.resume_and_check(dead);
    }
}

#[test]
fn the_ttl_runs_while_the_daemon_is_stopped() {
    let ttl = stop_duration() * 2 / 3;
    let ttl = format!("{}ms", ttl.as_millis());
    let long_ttl = TestDaemon::start(&["--ttl", "10m", "--sweep-interval", "200ms"]);
    let short_ttl = TestDaemon::start(&["--ttl", &ttl, "--sweep-interval", "200ms"]);
    let crowd = Crowd::start(1).unwrap();
    let session = session_of(crowd.pids().next().unwrap());
    let mut events = short_ttl.events();
    for daemon in [&long_ttl, &short_ttl] {
        daemon.register_all(crowd.pids());
        daemon.suspend();
    }
    churn_until(Deadline::after(stop_duration()));
    long_ttl.resume();
    short_ttl.resume();
    let removal = events.removal_of(&session);
    assert_eq!(removal.data.cause, "expired");
    assert!(long_ttl.lists(&session), "its ttl is not over");
    drop(events);
    long_ttl.stop();
    short_ttl.stop();
}
