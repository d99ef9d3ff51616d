//! Many at once, while the daemon runs and while it does not.

use std::collections::BTreeSet;

use reaper_tests::crowd::{Crowd, storm};
use reaper_tests::daemon::{Events, Launch, TestDaemon, session_of};
use reaper_tests::wait::eventually;

use super::{count, root_with, works};

/// Exactly these were removed for their deaths, once each. The daemon has been stopped.
fn told_once_each(events: Events, dead: &BTreeSet<String>) {
    let removals = events.to_end();
    let told: BTreeSet<String> = removals.iter().map(|it| it.session().to_owned()).collect();
    assert_eq!(removals.len(), told.len(), "nobody is removed twice");
    assert_eq!(told, *dead);
    assert!(removals.iter().all(|it| it.told.cause == "exited"));
}

fn sessions_of(crowd: &Crowd) -> BTreeSet<String> {
    crowd.pids().map(session_of).collect()
}

#[test]
fn two_thousand_killed_at_once_are_all_gone_with_one_event_each() {
    let daemon = TestDaemon::start(&["--sweep-interval", "60s"]);
    // All that works here; it shall not be less than is required.
    for source in ["netlink", "ebpf"] {
        works(&daemon, source);
    }
    let mut events = daemon.events();
    let mut crowd = Crowd::start(count("REAPER_VICTIMS", 2_000)).unwrap();
    let bystanders = Crowd::start(3).unwrap();
    daemon.register_all(crowd.pids().chain(bystanders.pids()));
    let dead = sessions_of(&crowd);
    assert_eq!(daemon.list().len(), dead.len() + 3);
    crowd.kill().unwrap();
    events.removals(dead.len());
    let left: BTreeSet<_> = daemon.list().into_iter().map(|it| it.session_id).collect();
    assert_eq!(left, sessions_of(&bystanders));
    daemon.stop();
    told_once_each(events, &dead);
}

#[test]
fn what_happens_while_the_daemon_is_stopped_is_made_up_for() {
    for sources in ["auto", "netlink", "ebpf", "pidfd"] {
        let flags = ["--sources", sources, "--sweep-interval", "60s"];
        let daemon = TestDaemon::start(&flags);
        if sources != "auto" && !works(&daemon, sources) {
            daemon.stop();
            continue;
        }
        let mut events = daemon.events();
        let living = Crowd::start(count("REAPER_LIVING", 200)).unwrap();
        let mut dying = Crowd::start(50).unwrap();
        daemon.register_all(living.pids().chain(dying.pids()));
        let dead = sessions_of(&dying);
        // The storm costs seconds; one source of each kind is stormed at.
        let strangers = if sources == "auto" { 5_000 } else { 500 };
        daemon.suspend();
        storm(count("REAPER_STRANGERS", strangers)).unwrap();
        dying.kill().unwrap();
        daemon.resume();
        events.removals(dead.len());
        let left: BTreeSet<_> = daemon.list().into_iter().map(|it| it.session_id).collect();
        assert_eq!(left, sessions_of(&living), "{sources}");
        daemon.stop();
        told_once_each(events, &dead);
    }
}

#[test]
fn with_few_descriptors_nobody_is_refused_and_nobody_is_kept_dead() {
    if !root_with(&["prlimit"]) {
        return;
    }
    for sources in ["auto", "pidfd", "netlink", "sweep"] {
        let few = ["prlimit", "--nofile=64:64", "--"];
        let flags = ["--sources", sources, "--sweep-interval", "250ms"];
        let daemon = Launch::with(&flags).through(&few).start();
        let mut events = daemon.events();
        let mut dying = Crowd::start(150).unwrap();
        let living = Crowd::start(150).unwrap();
        // Mixed, so that some of either are beyond the budget.
        for (dies, lives) in dying.pids().zip(living.pids()) {
            daemon.register_all([dies, lives]);
        }
        let strengths: BTreeSet<_> = daemon.list().into_iter().map(|it| it.identity).collect();
        assert!(
            strengths.len() > 1,
            "the budget was not reached: {strengths:?}"
        );
        let dead = sessions_of(&dying);
        dying.kill().unwrap();
        events.removals(dead.len());
        eventually("the living are listed and nobody else", || {
            let left: BTreeSet<_> = daemon.list().into_iter().map(|it| it.session_id).collect();
            left == sessions_of(&living)
        });
        daemon.stop();
        told_once_each(events, &dead);
    }
}
