//! `kill -9` of monitor and worker at random instants, with the descriptor store of a real service manager,
//! while sessions are registered, renewed, replaced and removed, and processes end.

use std::thread;
use std::time::Duration;

use reaper_tests::expect::measured;
use reaper_tests::machine::{Machine, is_inside};
use reaper_tests::oracle::{Oracle, random};
use reaper_tests::scale::scaled;
use reaper_tests::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::inside::{journal, property, start};

/// The process that systemd has started.
fn monitor() -> Option<Pid> {
    property("MainPID").parse().ok().and_then(Pid::from_raw)
}

#[test]
fn nothing_is_lost_doubled_or_resurrected_by_kills_of_both_processes() {
    if is_inside() {
        return kill_again_and_again(scaled(200, 20));
    }
    if let Some(machine) = Machine::boot() {
        machine
            .run_test("kills::nothing_is_lost_doubled_or_resurrected_by_kills_of_both_processes");
    }
}

fn kill_again_and_again(kills: usize) {
    let daemon = start();
    let mut oracle = Oracle::begin(&daemon);
    let (mut killed, mut in_a_start) = (0, 0);
    while killed < kills {
        let former = monitor().unwrap();
        let pause = Duration::from_micros(random(15_000));
        let kill = thread::spawn(move || {
            thread::sleep(pause);
            kill_process(former, Signal::KILL).unwrap();
        });
        while oracle.operate(&daemon) && !kill.is_finished() {}
        kill.join().unwrap();
        killed += 1;
        // Some of the next ones are killed in their start.
        if random(3) == 0 {
            let mut next = None;
            eventually("another monitor is started", || {
                next = monitor().filter(|next| *next != former);
                next.is_some()
            });
            thread::sleep(Duration::from_micros(random(40_000)));
            let is_killed = next.is_some_and(|next| kill_process(next, Signal::KILL).is_ok());
            killed += usize::from(is_killed);
            in_a_start += usize::from(is_killed);
        }
        oracle.check(&daemon);
        let health: Value = daemon.get("/v1/health").unwrap();
        assert_eq!(health["carried_over"]["refused"], "");
        assert_eq!(health["carried_over"]["damaged"], 0);
    }
    measured("kills of monitor and worker", killed);
    measured("of these in a start", in_a_start);
    measured("operations", oracle.operations);
    measured("operations without an answer", oracle.unanswered);
    measured("events", oracle.history.events);
    let removals = &oracle.history.removals;
    measured("removals by cause and source", format!("{removals:?}"));
    let restarts: usize = property("NRestarts").parse().unwrap();
    assert!(restarts >= killed - in_a_start, "{restarts}");
    let log = journal();
    assert!(!log.contains("are not carried over"), "{log}");
}
