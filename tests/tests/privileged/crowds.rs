//! Many deaths at once, while the daemon runs and while it is stopped.

use reaper_tests::crowd::{Crowd, storm};
use reaper_tests::daemon::TestDaemon;
use reaper_tests::scale::scaled;

use super::start_with;

#[test]
fn two_thousand_killed_processes_are_removed_with_one_event_each() {
    let daemon = TestDaemon::start(&["--sweep-interval", "60s"]);
    // Uses whatever works here. Fails if a required source does not.
    for source in ["netlink", "ebpf"] {
        daemon.has_source(source);
    }
    let mut events = daemon.events();
    let mut crowd = Crowd::start(2_000).unwrap();
    let controls = Crowd::start(3).unwrap();
    daemon.register_all(crowd.pids().chain(controls.pids()));
    let dead = crowd.sessions();
    assert_eq!(daemon.list().len(), dead.len() + 3);
    crowd.kill().unwrap();
    events.removals(dead.len());
    assert_eq!(daemon.listed(), controls.sessions());
    daemon.stop();
    events.check_each_removed_once(&dead);
}

#[test]
fn deaths_while_the_daemon_is_stopped_are_reported_when_it_continues() {
    for sources in ["auto", "netlink", "ebpf", "pidfd"] {
        let Some(daemon) = start_with(sources, "60s") else {
            continue;
        };
        let mut events = daemon.events();
        let controls = Crowd::start(200).unwrap();
        let mut dying = Crowd::start(50).unwrap();
        daemon.register_all(controls.pids().chain(dying.pids()));
        let dead = dying.sessions();
        // Many processes take seconds, so in a bounded run only `auto` gets the full number.
        let unrelated = if sources == "auto" {
            5_000
        } else {
            scaled(5_000, 500)
        };
        daemon.suspend();
        storm(unrelated).unwrap();
        dying.kill().unwrap();
        daemon.resume();
        events.removals(dead.len());
        assert_eq!(daemon.listed(), controls.sessions(), "{sources}");
        daemon.stop();
        events.check_each_removed_once(&dead);
    }
}
