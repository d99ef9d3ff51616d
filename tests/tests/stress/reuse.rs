//! A thousand pids that are reused within one clock tick, so that both owners have the same start
//! time. With a pidfd, no successor is mistaken for its predecessor. With the pid and the start
//! time alone it can be: that is the documented weaker mode, and these tests measure how often it
//! happens.

use reaper_tests::daemon::TestDaemon;
use reaper_tests::expect::measured;
use reaper_tests::wait::eventually;

use crate::reuse_run::{ReuseRun, ReusedPid, When};
use crate::{daemon_without_pidfds, scaled};

/// How many reuses may miss the tick for each that does not.
const MISSED_TICKS: usize = 40;
/// The descriptor limit of a daemon with hardly any descriptor for processes.
const FEW_DESCRIPTORS: u64 = 64;
const QUICK_SWEEP: &str = "50ms";

#[test]
fn with_a_pidfd_no_successor_is_mistaken_for_its_predecessor() {
    let mut run = ReuseRun::new(TestDaemon::start(&["--sweep-interval", "60s"]));
    let wanted = scaled(1_000, 20);
    let mut count = Count::default();
    while count.reuses < wanted {
        let Some(reused) = run.batch(When::SameTick) else {
            return;
        };
        for one in &reused {
            assert_eq!(one.identity, "pidfd");
            assert_eq!(run.register(&one.successor(), one.pid), "pidfd");
        }
        // Each first owner is removed once; then each successor is listed and its token accepted.
        run.wait_for_removals();
        run.wait_for_rechecks();
        run.tracker.check_against(&run.daemon);
        for one in &reused {
            run.tracker.expect_end(&one.successor(), Some(-9));
        }
        run.end(&reused);
        count.add(&reused, When::SameTick, 0);
        count.check_progress(wanted);
    }
    measured("reuses within a tick, with pidfd", count.reuses);
    measured("reuses within a tick, with pidfd: mistaken", 0);
    run.daemon.stop();
}

#[test]
fn with_pid_and_start_time_no_successor_of_a_later_tick_is_mistaken_for_its_predecessor() {
    for sources in ["sweep", "netlink", "ebpf"] {
        without_descriptors(sources, When::TwoTicksLater, true);
    }
}

#[test]
fn with_pid_and_start_time_the_probe_distinguishes_a_successor_of_the_same_tick() {
    // The probe reports a time of death, and the successor was started after it.
    without_descriptors("ebpf", When::SameTick, true);
}

#[test]
fn how_often_a_successor_of_the_same_tick_is_mistaken_is_measured() {
    for sources in ["sweep", "netlink"] {
        without_descriptors(sources, When::SameTick, false);
    }
}

/// Forces many reuses with a daemon that identifies processes by pid and start time alone. Counts
/// the first owners that are still listed after all rechecks.
fn without_descriptors(sources: &str, when: When, must_detect_all: bool) {
    let flags = ["--sources", sources, "--sweep-interval", QUICK_SWEEP];
    let daemon = daemon_without_pidfds(&flags, FEW_DESCRIPTORS);
    if !daemon.has_source(sources) {
        return;
    }
    let mut run = ReuseRun::new(daemon);
    run.use_up_descriptors();
    // Enough for a rate, and to catch the probe at a mistake that it makes at all often.
    let wanted = scaled(200, 20);
    let mut count = Count::default();
    while count.reuses < wanted {
        let Some(reused) = run.batch(when) else {
            return;
        };
        assert!(reused.iter().all(|one| one.identity == "start_time"));
        let (counted, others) = split(&reused, when);
        if must_detect_all {
            eventually("no first owner is listed", || {
                run.still_listed(&counted).is_empty()
            });
        } else {
            run.wait_for_rechecks();
        }
        if when == When::SameTick {
            eventually("first owners with another start time are gone", || {
                run.still_listed(&others).is_empty()
            });
        }
        let missed = run.still_listed(&counted);
        let is_accepted = |first: &String| run.tracker.is_accepted(&run.daemon, first);
        assert!(
            missed.iter().all(is_accepted),
            "the token of a listed session is accepted"
        );
        run.end(&reused);
        count.add(&reused, when, missed.len());
        count.check_progress(wanted);
    }
    let what = match when {
        When::SameTick => "within a tick",
        When::TwoTicksLater => "across ticks",
    };
    let beside = if sources == "sweep" { "" } else { " and sweep" };
    let name = format!("reuses {what}, pid and start time, {sources}{beside}: mistaken");
    measured(&name, format!("{} of {}", count.missed, count.reuses));
    run.daemon.stop();
}

#[derive(Default)]
struct Count {
    reuses: usize,
    missed: usize,
    /// Reuses that were too late, or not late enough, to count.
    others: usize,
}

impl Count {
    fn add(&mut self, reused: &[ReusedPid], when: When, missed: usize) {
        let (counted, others) = split(reused, when);
        self.reuses += counted.len();
        self.others += others.len();
        self.missed += missed;
    }

    /// Fails if too many reuses miss the tick.
    fn check_progress(&self, wanted: usize) {
        let Self { reuses, others, .. } = self;
        assert!(
            *others < MISSED_TICKS * wanted,
            "{reuses} counted, {others} did not"
        );
    }
}

/// Splits off the reuses that happened at another time than intended.
fn split(reused: &[ReusedPid], when: When) -> (Vec<&ReusedPid>, Vec<&ReusedPid>) {
    reused
        .iter()
        .partition(|one| one.same_tick == (when == When::SameTick))
}
