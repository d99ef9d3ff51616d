//! The wall clock is set by ten years, forth and back. What depends on an age or on an order of
//! events goes by other clocks.

use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{TestDaemon, session_of};
use reaperd::testkit::clock::{monotonic_ns, now};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::is_ours;
use crate::life::the_dead_go_and_the_living_stays;

const TEN_YEARS: Duration = Duration::from_hours(24 * 3_652);

/// Puts the clock back to what it would show.
struct Clock {
    wall_ns: u64,
    read_at_ns: u64,
}

impl Clock {
    fn read() -> Self {
        let wall = clock_gettime(ClockId::Realtime);
        let seconds = u64::try_from(wall.tv_sec).unwrap();
        Self {
            wall_ns: seconds * 1_000_000_000 + u64::try_from(wall.tv_nsec).unwrap(),
            read_at_ns: monotonic_ns(),
        }
    }

    /// So far from the true time.
    fn set(&self, change: impl FnOnce(Duration) -> Duration) {
        let true_ns = self.wall_ns + (monotonic_ns() - self.read_at_ns);
        let wall = change(Duration::from_nanos(true_ns));
        let wall = Timespec::try_from(wall).unwrap();
        clock_settime(ClockId::Realtime, wall).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.set(|true_time| true_time);
    }
}

#[test]
fn ten_years_forth_and_back_end_no_session_and_hide_no_death() {
    if !is_ours("the clock") {
        return;
    }
    let daemon = TestDaemon::start(&["--ttl", "1h", "--sweep-interval", "200ms"]);
    let old = Crowd::start(2).unwrap();
    daemon.register_all(old.pids());
    let registered_at = |pid: u32| {
        let session = daemon.list().into_iter().find(|it| it.pid == pid);
        session.unwrap().registered_at.unwrap()
    };
    let times: Vec<_> = old.pids().map(registered_at).collect();

    let clock = Clock::read();
    let later = |time: Duration| time + TEN_YEARS;
    let earlier = |time: Duration| time.saturating_sub(TEN_YEARS);
    let changes: [fn(Duration) -> Duration; 3] = [later, earlier, |time| time];
    for change in changes {
        clock.set(change);
        the_dead_go_and_the_living_stays(&daemon, &old, || {});
        // Who comes now comes by this clock; who was there keeps the time that was told before.
        let new = Crowd::start(1).unwrap();
        let before = now().wall_ms;
        daemon.register_all(new.pids());
        let at = registered_at(new.pids().next().unwrap());
        assert!((before..=now().wall_ms).contains(&at), "{before} {at}");
        assert_eq!(old.pids().map(registered_at).collect::<Vec<_>>(), times);
    }
    drop(clock);
    assert!(old.pids().all(|pid| daemon.lists(&session_of(pid))));
    daemon.stop();
}
