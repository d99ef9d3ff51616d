//! A thousand numbers that go to somebody else within one tick of the clock in which start times
//! are told. With a pidfd nobody is confused. With the number and the start time alone such an successor
//! can pass for the dead: that is the declared weaker mode, and here is how often it happens.

use reaper_tests::daemon::TestDaemon;
use reaper_tests::expect::{measured, skip};
use reaper_tests::wait::eventually;

use crate::play::{Life, Play, When};
use crate::{daemon_without_pidfds, scaled, working};

/// How many reuses may miss the tick for each that does not.
const MISSED_TICKS: usize = 40;
/// The descriptors of a daemon that is to have hardly one for processes.
const FEW_DESCRIPTORS: u64 = 64;
const QUICK_SWEEP: &str = "50ms";

#[test]
fn where_a_pidfd_is_held_no_heir_is_taken_for_the_dead() {
    let mut play = Play::new(TestDaemon::start(&["--sweep-interval", "60s"]));
    let wanted = scaled(1_000, 20);
    let mut count = Count::default();
    while count.reuses < wanted {
        let Some(lives) = play.batch(When::WithinTheTick) else {
            return;
        };
        for life in &lives {
            assert_eq!(life.identity, "pidfd");
            assert_eq!(play.register(&life.successor(), life.pid), "pidfd");
        }
        // Every first owner is told of once, and then every successor is listed and its token taken.
        play.settle();
        play.looked_at_for_the_last_time();
        play.tracker.agree(&play.daemon);
        for life in &lives {
            play.tracker.doom(&life.successor(), Some(-9));
        }
        play.end(&lives);
        count.add(&lives, When::WithinTheTick, 0);
        count.is_possible(wanted);
    }
    measured("reuses within a tick, pidfd held", count.reuses);
    measured("reuses within a tick, pidfd held: confusions", 0);
    play.daemon.stop();
}

#[test]
fn with_the_number_alone_an_heir_of_a_later_tick_is_never_taken_for_the_dead() {
    for sources in ["sweep", "netlink", "ebpf"] {
        number_only(sources, When::TwoTicksLater, true);
    }
}

#[test]
fn with_the_number_alone_the_probe_still_tells_an_heir_of_the_same_tick_from_the_dead() {
    // The kernel's own word for a death has a time, and the successor was not yet born then.
    number_only("ebpf", When::WithinTheTick, true);
}

#[test]
fn how_often_an_heir_of_the_same_tick_passes_for_the_dead_is_measured() {
    for sources in ["sweep", "netlink"] {
        number_only(sources, When::WithinTheTick, false);
    }
}

/// Has a daemon that knows processes by number and start time alone live through many reuses, and
/// counts the first owners that are still listed when all has been looked at.
fn number_only(sources: &str, when: When, must_see_all: bool) {
    let flags = ["--sources", sources, "--sweep-interval", QUICK_SWEEP];
    let daemon = daemon_without_pidfds(&flags, FEW_DESCRIPTORS);
    if working(&daemon, &[sources]).is_empty() {
        skip(format_args!("{sources} does not work here"));
        return;
    }
    let mut play = Play::new(daemon);
    play.use_up_descriptors();
    // Enough for a rate, and for the probe to be caught at a mistake that it makes at all often.
    let wanted = scaled(200, 20);
    let mut count = Count::default();
    while count.reuses < wanted {
        let Some(lives) = play.batch(when) else {
            return;
        };
        assert!(lives.iter().all(|life| life.identity == "start_time"));
        let (counted, others) = split(&lives, when);
        if must_see_all {
            eventually("no first owner is listed", || {
                play.probe_health(&counted).is_empty()
            });
        } else {
            play.looked_at_for_the_last_time();
        }
        if when == When::WithinTheTick {
            eventually("those are gone whose start times differ", || {
                play.probe_health(&others).is_empty()
            });
        }
        let missed = play.probe_health(&counted);
        let is_accepted = |first: &String| play.tracker.is_accepted(&play.daemon, first);
        assert!(
            missed.iter().all(is_accepted),
            "listed, so its token is taken"
        );
        play.end(&lives);
        count.add(&lives, when, missed.len());
        count.is_possible(wanted);
    }
    let what = match when {
        When::WithinTheTick => "within a tick",
        When::TwoTicksLater => "across ticks",
    };
    let beside = if sources == "sweep" { "" } else { " and sweep" };
    let name = format!("reuses {what}, number only, {sources}{beside}: missed");
    measured(&name, format!("{} of {}", count.missed, count.reuses));
    play.daemon.stop();
}

#[derive(Default)]
struct Count {
    reuses: usize,
    missed: usize,
    /// Reuses that were too late, or not late enough, to count.
    others: usize,
}

impl Count {
    fn add(&mut self, lives: &[Life], when: When, missed: usize) {
        let (counted, others) = split(lives, when);
        self.reuses += counted.len();
        self.others += others.len();
        self.missed += missed;
    }

    fn is_possible(&self, wanted: usize) {
        let Self { reuses, others, .. } = self;
        assert!(
            *others < MISSED_TICKS * wanted,
            "{reuses} counted, {others} did not"
        );
    }
}

/// Those that were replaced as they were meant to be, and the others.
fn split(lives: &[Life], when: When) -> (Vec<&Life>, Vec<&Life>) {
    lives
        .iter()
        .partition(|life| life.same_tick == (when == When::WithinTheTick))
}
