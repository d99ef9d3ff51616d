//! The wall clock is set forward and back by ten years. Ages and the order of events do not depend
//! on it.

use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{TestDaemon, session_of};
use reaperd::testkit::clock::{monotonic_ns, now};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::may_change;
use crate::scenario::check_removals;

const TEN_YEARS: Duration = Duration::from_hours(24 * 3_652);

/// Sets the clock to what it would show without the test, on drop.
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

    /// Sets the clock to a function of the true time.
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
fn setting_the_clock_by_ten_years_removes_no_live_session_and_hides_no_death() {
    if !may_change("the clock") {
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
        check_removals(&daemon, &old, || {});
        // A new session gets its time from this clock; the old ones keep theirs.
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
