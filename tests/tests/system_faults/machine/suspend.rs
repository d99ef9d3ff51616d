//! The machine sleeps for a while. Timers stand still meanwhile, and ages do not.

use std::fs;
use std::io;
use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{TestDaemon, session_of};
use reaperd::testkit::clock::{monotonic_ns, now};

use super::is_ours;
use crate::life::the_dead_go_and_the_living_stays;

/// Longer than the age of the old, and whole seconds: the alarm clock has no others.
const SLEEP: Duration = Duration::from_secs(20);
const AGE: Duration = Duration::from_secs(15);

/// Has the machine sleep, and returns when it is awake. Answers how much of it no timer has seen.
fn sleep() -> io::Result<Duration> {
    set_alarm("0")?;
    set_alarm(&format!("+{}", SLEEP.as_secs()))?;
    let (boot, timers) = (now().boot.as_nanos(), monotonic_ns());
    let slept = fs::write("/sys/power/state", "mem");
    let passed = now().boot.as_nanos() - boot;
    let run = monotonic_ns() - timers;
    set_alarm("0")?;
    slept.map(|()| Duration::from_nanos(passed.saturating_sub(run)))
}

fn set_alarm(when: &str) -> io::Result<()> {
    fs::write("/sys/class/rtc/rtc0/wakealarm", when)
}

#[test]
fn a_sleep_is_part_of_a_sessions_age_and_no_end_of_a_process() {
    if !is_ours("the machine's sleep") {
        return;
    }
    let age = format!("{}s", AGE.as_secs());
    let old = TestDaemon::start(&["--ttl", &age, "--sweep-interval", "500ms"]);
    let young = TestDaemon::start(&["--ttl", "10m"]);
    let mut of_old = old.events();
    let crowd = Crowd::start(1).unwrap();
    let session = session_of(crowd.pids().next().unwrap());
    for daemon in [&old, &young] {
        daemon.register_all(crowd.pids());
    }
    let awake_since = monotonic_ns();
    let slept = sleep().unwrap();
    assert!(slept > SLEEP / 2, "it slept for {slept:?}");
    let removal = of_old.removal_of(&session);
    assert_eq!(removal.told.cause, "expired");
    // By the clock that stands still in between it was not of age yet.
    let awake = Duration::from_nanos(removal.at_ns - awake_since);
    assert!(awake < AGE, "it took {awake:?} without the sleep");
    the_dead_go_and_the_living_stays(&young, &crowd, || {});
    drop(of_old);
    old.stop();
    young.stop();
}
