//! Sessions, their events and the streams that carry these go on: none is lost, doubled or missed.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use reaper_tests::daemon::{Arrived, Launch, TestDaemon, session_of};
use reaper_tests::expect;
use reaper_tests::scale::scaled;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;
use rustix::process::Signal;

use super::successor;

/// The epoch and the number of an event.
fn id_of(event: &Arrived) -> Option<(String, u64)> {
    let (epoch, number) = event.frame.id.split_once('.')?;
    Some((epoch.to_owned(), number.parse().unwrap()))
}

/// Checks that no event is missing or doubled.
fn check_numbers(arrived: &[Arrived]) {
    let ids: Vec<_> = arrived.iter().filter_map(id_of).collect();
    for pair in ids.windows(2) {
        assert_eq!(pair[0].0, pair[1].0, "the epoch goes on");
        assert_eq!(pair[0].1 + 1, pair[1].1, "no hole and no double");
    }
    let gaps = arrived.iter().filter(|it| it.frame.event == "gap").count();
    assert_eq!(gaps, 0);
}

#[test]
fn processes_that_end_during_a_replacement_are_reported_once() {
    let rounds = scaled(20, 3);
    let mut daemon = TestDaemon::start(&[]);
    let mut events = daemon.events();
    let mut removed = 0;
    let mut within = 0;
    for round in 0..rounds {
        let mut processes: Vec<_> = (0..20).map(|_| TestProcess::start()).collect();
        let dead: BTreeSet<_> = processes.iter().map(|it| session_of(it.pid())).collect();
        daemon.register_all(processes.iter().map(TestProcess::pid));
        let next = daemon.spawn_beside(&successor());
        // Some end before the hand-over, some within it, and some after it.
        for process in &mut processes {
            process.kill();
            process.reap();
            if has_begun(&daemon, round) && !has_replaced(&daemon, round) {
                within += 1;
            }
            thread::sleep(Duration::from_millis(15));
        }
        daemon.adopt(next);
        removed += dead.len();
        let removals = events.removals(removed);
        let of_round = &removals[removals.len() - dead.len()..];
        let ids: BTreeSet<_> = of_round.iter().map(|it| it.session().to_owned()).collect();
        assert_eq!(ids, dead, "each once");
        assert!(of_round.iter().all(|it| it.data.cause == "exited"));
        eventually("none is listed", || daemon.list().is_empty());
    }
    expect::measured("ended within a hand-over", within);
    assert!(within > 0, "the window was not met");
    events.until("all events", |arrived| {
        check_numbers(arrived);
        true
    });
    daemon.stop();
}

fn has_begun(daemon: &TestDaemon, round: usize) -> bool {
    daemon.log().matches("asks to replace").count() > round
}

fn has_replaced(daemon: &TestDaemon, round: usize) -> bool {
    daemon.log().matches("has replaced").count() > round
}

#[test]
fn a_stream_goes_on_in_the_same_response_whatever_it_shows() {
    let mut daemon = TestDaemon::start(&[]);
    let mut process = TestProcess::start();
    let token = daemon.register("own", process.pid());
    let mut all = daemon.events();
    let mut own = super::client::Connection::open(&daemon.socket()).unwrap();
    let request = super::client::get("/v1/events", Some(token.reveal().as_str()));
    own.send(&request).unwrap();
    own.until(": connected").unwrap();
    for round in 0..3 {
        daemon.hand_over_to(&successor());
        all.removal_after_kill(&daemon, &format!("round-{round}"));
    }
    process.kill();
    // The stream of one session ends with it.
    let rest = own.rest();
    assert!(rest.contains("event: session_deregistered"), "{rest}");
    assert!(rest.ends_with("event: end\ndata: {}\n\n"), "{rest}");
    assert!(!rest.contains("round-"), "another session: {rest}");
    all.removal_of("own");
    all.until("all events", |arrived| {
        check_numbers(arrived);
        true
    });
    daemon.stop();
}

#[test]
fn secrets_limits_and_ages_go_on() {
    let mut daemon = TestDaemon::start(&["--max-sessions-per-uid", "3"]);
    let mut process = TestProcess::start();
    let pid = process.pid();
    let tokens: Vec<_> = (0..3)
        .map(|it| daemon.register(&format!("s-{it}"), pid))
        .collect();
    let before = daemon.list();
    daemon.hand_over_to(&Launch::with(&["--replace", "--max-sessions-per-uid", "3"]));
    assert_eq!(daemon.list(), before);
    assert!(tokens.iter().all(|token| daemon.accepts(token)));
    assert!(daemon.try_register("one-more", pid).is_err());
    process.kill();
    eventually("all are removed", || daemon.list().is_empty());
    assert!(tokens.iter().all(|token| !daemon.accepts(token)));
    daemon.stop();
}

#[test]
fn a_worker_that_is_killed_after_a_replacement_loses_nothing() {
    let mut daemon = TestDaemon::start(&[]);
    let mut process = TestProcess::start();
    let token = daemon.register("kept", process.pid());
    for _ in 0..2 {
        daemon.hand_over_to(&successor());
        daemon.signal_worker(Signal::KILL);
        daemon.serves();
        assert!(daemon.accepts(&token));
    }
    daemon.hand_over_to(&successor());
    process.kill();
    eventually("it is removed", || !daemon.accepts(&token));
    daemon.stop();
}

#[test]
fn a_daemon_of_another_user_is_replaced_by_root_and_goes_on_as_that_user() {
    if !expect::root_with(&[]) {
        return;
    }
    let launch = |arguments: &[&str]| Launch::with(arguments).for_user(2001);
    let mut daemon = launch(&["--user", "2001"]).start();
    let mut process = TestProcess::start();
    let token = daemon.register("kept", process.pid());
    daemon.hand_over_to(&launch(&["--user", "2001", "--replace"]));
    assert!(daemon.accepts(&token));
    let health: serde_json::Value = daemon.get("/v1/health").unwrap();
    assert_eq!(health["sandbox"]["user"], 2001);
    process.kill();
    eventually("it is removed", || !daemon.accepts(&token));
    daemon.stop();
}
