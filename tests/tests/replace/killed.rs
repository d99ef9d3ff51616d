//! `kill -9` of the former worker during a hand-over: one of the two daemons goes on, whenever it comes.

use std::thread;
use std::time::Duration;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::expect::measured;
use reaper_tests::oracle::random;
use reaper_tests::scale::scaled;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{Deadline, TIMEOUT, eventually};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;

use super::failures::{Fake, kill_both};
use super::successor;

/// How long a hand-over takes here, and the start of the successor before it.
fn hand_over_us() -> u64 {
    let mut daemon = TestDaemon::start(&[]);
    let clock = Deadline::after(TIMEOUT);
    daemon.hand_over_to(&successor());
    u64::try_from(clock.elapsed().as_micros()).unwrap()
}

#[test]
fn a_former_worker_that_is_killed_leaves_one_of_both_daemons() {
    let rounds = scaled(200, 20);
    let within_us = hand_over_us();
    let (mut stayed, mut replaced) = (0, 0);
    for _ in 0..rounds {
        let mut daemon = TestDaemon::start(&[]);
        let process = TestProcess::start();
        let token = daemon.register("kept", process.pid());
        let worker = Pid::from_raw(daemon.pid().cast_signed()).unwrap();
        // It may have ended, and its pid may be another's, when it is killed.
        let worker = pidfd_open(worker, PidfdFlags::empty()).unwrap();
        let mut next = daemon.spawn_beside(&successor());
        eventually("the successor asks", || {
            daemon.log().contains("asks to replace this daemon")
        });
        thread::sleep(Duration::from_micros(random(within_us)));
        pidfd_send_signal(&worker, Signal::KILL).unwrap_or_default();
        let mut has_ended = (false, false);
        eventually("one of both ends", || {
            has_ended = (daemon.ended().is_some(), next.try_wait().unwrap().is_some());
            has_ended != (false, false)
        });
        let is_served = |daemon: &TestDaemon| daemon.resolves(&token).unwrap_or(false);
        eventually("the other one has the session", || is_served(&daemon));
        has_ended = (daemon.ended().is_some(), next.try_wait().unwrap().is_some());
        match has_ended {
            (true, false) => {
                replaced += 1;
                kill_both(&mut next);
            }
            (false, true) => {
                stayed += 1;
                daemon.signal(Signal::TERM);
                assert!(daemon.wait().success(), "{}", daemon.log());
            }
            _ => panic!("{has_ended:?}\n{}", daemon.log()),
        }
    }
    measured("kills of the former worker after which it went on", stayed);
    measured("kills after which the successor had its place", replaced);
}

/// The monitor sends the last message. A worker that has asked for that can be killed.
#[test]
fn a_worker_that_is_killed_before_the_last_message_is_sent_leaves_the_successor() {
    let mut daemon = TestDaemon::start(&["--log", "debug"]);
    let mut fake = Fake::ask(&daemon.socket());
    fake.send(&json!("Begin"));
    fake.receive_everything();
    daemon.signal(Signal::STOP);
    fake.send(&json!("Ready"));
    // The request to the monitor is the next step of the worker.
    eventually("the worker has got that", || {
        daemon.log().contains("the successor is ready")
    });
    daemon.signal_worker(Signal::KILL);
    daemon.signal(Signal::CONT);
    assert_eq!(fake.try_receive().unwrap(), json!("Go"), "{}", daemon.log());
    assert_eq!(daemon.wait().code(), Some(137));
}
