//! The daemon itself does not run for a while, as under SIGSTOP or in a frozen group, while processes
//! go on living and dying.

use std::collections::BTreeSet;
use std::time::Duration;

use reaper_tests::crowd::{Crowd, storm};
use reaper_tests::daemon::{Events, TestDaemon, session_of};
use reaper_tests::wait::{Deadline, within};

use crate::life::GONE_WITHIN;
use crate::{Extent, extent};

/// A daemon that is stopped, and those it watches.
struct Harness {
    daemon: TestDaemon,
    events: Events,
    living: Crowd,
    dying: Crowd,
}

impl Harness {
    fn set(flags: &[&str]) -> Self {
        let daemon = TestDaemon::start(flags);
        let (living, dying) = (Crowd::start(10).unwrap(), Crowd::start(10).unwrap());
        let events = daemon.events();
        daemon.register_all(living.pids().chain(dying.pids()));
        daemon.suspend();
        Self {
            daemon,
            events,
            living,
            dying,
        }
    }

    fn goes_on(self, dead: &BTreeSet<String>) {
        let Self {
            daemon,
            events,
            living,
            dying: _reaped,
        } = self;
        daemon.resume();
        within(GONE_WITHIN, "the dead are gone", || {
            let left: BTreeSet<_> = daemon.list().into_iter().map(|it| it.session_id).collect();
            assert!(left.is_superset(&living.sessions()), "a false death");
            left == living.sessions()
        });
        daemon.stop();
        events.told_once_each(dead);
    }
}

fn how_long() -> Duration {
    match extent() {
        Extent::Bounded => Duration::from_secs(3),
        Extent::Whole => Duration::from_mins(1),
    }
}

/// Strangers come and go meanwhile.
fn until_passed(deadline: Deadline) {
    while !deadline.has_passed() {
        storm(1).unwrap();
    }
}

#[test]
fn deaths_during_a_stop_are_told_after_it_and_nobody_living_is_dropped() {
    // All are stopped at once, and each wakes up late for many sweeps.
    let mut stages: Vec<_> = ["auto", "pidfd", "netlink", "ebpf", "sweep"]
        .map(|sources| ["--sources", sources, "--sweep-interval", "500ms"])
        .iter()
        .map(|flags| Harness::set(flags))
        .collect();
    let stopped = Deadline::after(how_long());
    let mut dead = Vec::new();
    for harness in &mut stages {
        dead.push(harness.dying.sessions());
        harness.dying.kill().unwrap();
    }
    until_passed(stopped);
    for (harness, dead) in stages.into_iter().zip(&dead) {
        harness.goes_on(dead);
    }
}

#[test]
fn a_stop_is_part_of_a_sessions_age() {
    let age = how_long() * 2 / 3;
    let ttl = format!("{}ms", age.as_millis());
    let young = TestDaemon::start(&["--ttl", "10m", "--sweep-interval", "200ms"]);
    let old = TestDaemon::start(&["--ttl", &ttl, "--sweep-interval", "200ms"]);
    let crowd = Crowd::start(1).unwrap();
    let session = session_of(crowd.pids().next().unwrap());
    let mut of_old = old.events();
    for daemon in [&young, &old] {
        daemon.register_all(crowd.pids());
        daemon.suspend();
    }
    until_passed(Deadline::after(how_long()));
    young.resume();
    old.resume();
    let removal = of_old.removal_of(&session);
    assert_eq!(removal.told.cause, "expired");
    assert!(young.lists(&session), "it is not of age there");
    drop(of_old);
    young.stop();
    old.stop();
}
