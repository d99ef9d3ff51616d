//! `kill -9` of the worker at random instants, while sessions are registered, renewed, replaced and
//! removed, and processes end. After each kill the sessions must be what the answers said.

use std::thread;
use std::time::Duration;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::oracle::{Oracle, random};
use reaper_tests::scale::scaled;
use reaper_tests::wait::eventually;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::replaced::worker_of;

#[test]
fn nothing_is_lost_doubled_or_resurrected_by_kills_of_the_worker() {
    let kills = scaled(1_000, 60);
    // The numbers of events must go on although the history is short.
    let daemon = TestDaemon::start(&["--sweep-interval", "500ms"]);
    let mut oracle = Oracle::begin(&daemon);
    let mut killed = 0;
    let mut in_a_start = 0;
    while killed < kills {
        let pause = Duration::from_micros(random(15_000));
        let worker = worker_of(&daemon);
        let kill = thread::spawn(move || {
            thread::sleep(pause);
            worker.is_some_and(|worker| kill_process(worker, Signal::KILL).is_ok())
        });
        while oracle.operate(&daemon) && !kill.is_finished() {}
        killed += usize::from(kill.join().unwrap());
        // Some of the next workers are killed in their start.
        if random(3) == 0 {
            thread::sleep(Duration::from_micros(random(40_000)));
            let next = worker_of(&daemon).filter(|next| Some(*next) != worker);
            let is_killed = next.is_some_and(|next| kill_process(next, Signal::KILL).is_ok());
            killed += usize::from(is_killed);
            in_a_start += usize::from(is_killed);
        }
        let former = worker;
        eventually("another worker serves", || {
            let health = daemon.get::<Value>("/v1/health");
            let pid = former.map_or(0, |it| it.as_raw_nonzero().get());
            health.is_ok_and(|health| health["pid"] != pid)
        });
        oracle.check(&daemon);
    }
    let log = daemon.log();
    let of_ready = log.matches("starting another worker").count();
    println!(
        "{killed} kills, {of_ready} of workers that served, {} before that, {in_a_start} aimed at a \
         start; {} operations, {} without an answer; {} events; removals {:?}",
        killed - of_ready.min(killed),
        oracle.operations,
        oracle.unanswered,
        oracle.history.events,
        oracle.history.removals,
    );
    assert!(!log.contains("are not carried over"), "{log}");
    assert!(!log.contains("damaged"), "{log}");
    daemon.stop();
}
