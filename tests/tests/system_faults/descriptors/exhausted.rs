//! No descriptor is free at all, as if the limit had been lowered while the daemon runs.

use std::collections::BTreeSet;
use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::TestDaemon;
use reaper_tests::expect;
use reaper_tests::wait::Deadline;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

use super::{AT_ONCE, ask, ask_on, is_closed, limited, number_after, open_below, registration};

/// Lowers the daemon's limit so that no descriptor is free. Returns false where that is not
/// possible.
fn leave_no_descriptor(daemon: &TestDaemon) -> bool {
    let numbers = || -> Option<BTreeSet<usize>> {
        let open = open_below(daemon, usize::MAX)?;
        let number = |line: &String| line.split(' ').next().unwrap().parse().unwrap();
        Some(open.iter().map(number).collect())
    };
    // Ignores descriptors that are open only for a moment. The limit applies to the numbers of
    // descriptors, not to their count: getrlimit(2).
    let listings = (0..5).map(|_| numbers());
    let taken = listings
        .reduce(|one, other| Some(&one? & &other?))
        .flatten();
    let Some(taken) = taken else {
        expect::skip_without("root", "/proc/PID/fd of the daemon is not readable");
        return false;
    };
    let free = (0..1_024).find(|number| !taken.contains(number)).unwrap();
    set_limit(daemon, free);
    true
}

fn set_limit(daemon: &TestDaemon, limit: usize) {
    let pid = Pid::from_raw(daemon.pid().cast_signed());
    let limits = Rlimit {
        current: Some(limit as u64),
        maximum: Some(1_024),
    };
    prlimit(pid, Resource::Nofile, limits).unwrap();
}

#[test]
fn without_a_free_descriptor_the_longest_idle_connection_is_closed() {
    let daemon = limited("pidfd", 1_024).start();
    let mut idle: Vec<_> = (0..4)
        .map(|_| ask(&daemon, "GET /v1/version", "").0)
        .collect();
    if !leave_no_descriptor(&daemon) {
        return;
    }
    let clock = Deadline::after(AT_ONCE);
    daemon.get_within::<Value>(AT_ONCE, "/v1/version").unwrap();
    println!("served after {:?}", clock.elapsed());
    let closed: Vec<_> = idle.iter_mut().map(is_closed).collect();
    assert_eq!(closed, [true, false, false, false]);
    set_limit(&daemon, 1_024);
    let log = daemon.log();
    assert_eq!(log.matches("cannot accept connections").count(), 1, "{log}");
    let failures = number_after(&log, "accepted again, after ");
    assert!((1..10).contains(&failures), "{log}");
    assert!(log.contains("1 idle ones were closed"), "{log}");
    daemon.stop();
}

#[test]
fn without_a_free_descriptor_a_registration_is_retried_before_it_is_refused() {
    let daemon = limited("pidfd", 1_024).start();
    let crowd = Crowd::start(2).unwrap();
    let pids: Vec<_> = crowd.pids().collect();
    let (mut connection, _) = ask(&daemon, "GET /v1/version", "");
    if !leave_no_descriptor(&daemon) {
        return;
    }
    let register = "POST /v1/sessions/register";
    let clock = Deadline::after(AT_ONCE);
    let response = ask_on(&mut connection, register, &registration(pids[0]));
    let took = clock.elapsed();
    assert!(
        response.contains(" 503 ") && response.contains("not_now"),
        "{response}"
    );
    let head = response.to_lowercase();
    assert!(head.contains("retry-after: "), "{response}");
    assert!(took > Duration::from_millis(400), "refused after {took:?}");
    let response = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask_on(&mut connection, register, &registration(pids[1])));
        // After the first attempt and well before the last one.
        std::thread::sleep(Duration::from_millis(150));
        set_limit(&daemon, 1_024);
        asked.join().unwrap()
    });
    assert!(response.contains(" 200 OK\r\n"), "{response}");
    daemon.stop();
}
