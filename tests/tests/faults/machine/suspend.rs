//! The machine sleeps for a while. Timers stand still meanwhile, and ages do not.

use std::fs;
use std::io;
use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{TestDaemon, session_of};
use reaper_user::clock::{monotonic_ns, now};

use super::is_ours;
use crate::life::the_dead_go_and_the_living_stays;

/// Longer than the age of the old, and whole seconds: the alarm clock has no others.
const SLEEP: Duration = Duration::from_secs(10);
const AGE: &str = "8s";

/// Has the machine sleep, and returns when it is awake. Answers how much of it no timer has seen.
fn sleep() -> io::Result<Duration> {
    let alarm = "/sys/class/rtc/rtc0/wakealarm";
    fs::write(alarm, "0")?;
    fs::write(alarm, format!("+{}", SLEEP.as_secs()))?;
    let (boot, timers) = (now().boot.as_nanos(), monotonic_ns());
    fs::write("/sys/power/state", "mem")?;
    let passed = now().boot.as_nanos() - boot;
    let run = monotonic_ns() - timers;
    Ok(Duration::from_nanos(passed - run))
}

#[test]
fn a_sleep_is_part_of_a_sessions_age_and_no_end_of_a_process() {
    if !is_ours("the machine's sleep") {
        return;
    }
    let old = TestDaemon::start(&["--ttl", AGE]);
    let young = TestDaemon::start(&["--ttl", "10m"]);
    let mut of_old = old.events();
    let crowd = Crowd::start(1).unwrap();
    let session = session_of(crowd.pids().next().unwrap());
    for daemon in [&old, &young] {
        daemon.register_all(crowd.pids());
    }
    let slept = sleep().unwrap();
    assert!(slept > SLEEP / 2, "it slept for {slept:?}");
    assert_eq!(of_old.removal_of(&session).told.cause, "expired");
    the_dead_go_and_the_living_stays(&young, &crowd, || {});
    drop(of_old);
    old.stop();
    young.stop();
}
