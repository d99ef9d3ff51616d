//! The machine is suspended for a while. Timers stand still meanwhile, but a session's ttl goes on.

use std::fs;
use std::io;
use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{TestDaemon, session_of};
use reaperd::testkit::clock::{monotonic_ns, now};

use super::may_change;
use crate::scenario::check_removals;

/// Longer than the short ttl, and whole seconds: the alarm clock knows no fractions.
const SUSPENDED: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(15);

/// Suspends the machine until the alarm. Returns by how much `CLOCK_BOOTTIME` advanced more than
/// `CLOCK_MONOTONIC`.
fn suspend() -> io::Result<Duration> {
    set_alarm("0")?;
    set_alarm(&format!("+{}", SUSPENDED.as_secs()))?;
    let (boottime, monotonic) = (now().boot.as_nanos(), monotonic_ns());
    let result = fs::write("/sys/power/state", "mem");
    let boottime_passed = now().boot.as_nanos() - boottime;
    let monotonic_passed = monotonic_ns() - monotonic;
    set_alarm("0")?;
    result.map(|()| Duration::from_nanos(boottime_passed.saturating_sub(monotonic_passed)))
}

fn set_alarm(when: &str) -> io::Result<()> {
    fs::write("/sys/class/rtc/rtc0/wakealarm", when)
}

#[test]
fn the_ttl_runs_while_the_machine_is_suspended_and_no_live_session_is_removed() {
    if !may_change("the power state") {
        return;
    }
    let ttl = format!("{}s", TTL.as_secs());
    let short_ttl = TestDaemon::start(&["--ttl", &ttl, "--sweep-interval", "500ms"]);
    let long_ttl = TestDaemon::start(&["--ttl", "10m"]);
    let mut events = short_ttl.events();
    let crowd = Crowd::start(1).unwrap();
    let session = session_of(crowd.pids().next().unwrap());
    for daemon in [&short_ttl, &long_ttl] {
        daemon.register_all(crowd.pids());
    }
    let registered_ns = monotonic_ns();
    let suspended = suspend().unwrap();
    assert!(suspended > SUSPENDED / 2, "suspended for {suspended:?}");
    let removal = events.removal_of(&session);
    assert_eq!(removal.data.cause, "expired");
    // By the clock that stands still during suspension, the ttl was not over yet.
    let awake = Duration::from_nanos(removal.at_ns - registered_ns);
    assert!(awake < TTL, "it took {awake:?} without the suspension");
    check_removals(&long_ttl, &crowd, || {});
    drop(events);
    short_ttl.stop();
    long_ttl.stop();
}
