//! A thousand sessions and every hint lost: all deaths are found by the sweep, within the promised
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaper_tests::wait::Deadline;
use reaperd::registry::{BootTime, EventKind, Removal, SessionId};
use reaperd::testkit::clock;
use reaperd::testkit::fault_injection::Plan;
use reaperd::{Pid, Source};

use crate::harness::Harness;

/// The default is 5 s; the promise holds for any interval.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long verdict and removal may take after the hint of the sweep.
const REMOVED_WITHIN: Duration = Duration::from_millis(150);

#[test]
fn with_all_hints_lost_a_thousand_sessions_are_swept_in_time() {
    let count = reaper_tests::scale::scaled(4_000, 500);
    let Some(harness) = Harness::open(crate::ALL, INTERVAL) else {
        return;
    };
    harness.plan(Plan {
        lost_percent: 100,
        ..Plan::default()
    });
    let mut dying = Crowd::start(count).unwrap();
    let controls = Crowd::start(count).unwrap();
    let register = |pid| harness.register(&format!("of-{pid}"), Pid::new(pid).unwrap());
    let dying_ids: Vec<SessionId> = dying.pids().map(register).collect();
    let control_ids: Vec<SessionId> = controls.pids().map(register).collect();
    harness.two_sweeps();
    assert_eq!(harness.reaper.len(), 2 * count);

    let latency = WakeUpLatency::measure();
    let first_kill = clock::now().boot;
    dying.kill().unwrap();
    let last_reaped = clock::now().boot;
    harness.wait_until_gone(&dying_ids);
    let machine = latency.worst();
    let swept = harness.status(Source::Sweep).detail;
    let sweep = sweep_duration(&swept);

    let last = last_removal(&harness, count);
    println!(
        "{count} of {} died; the last was removed {:?} after the first kill and {:?} after the last \
         reaping; a sweep took {sweep:?} ({swept}); wake-ups were up to {machine:?} late",
        2 * count,
        last.since(first_kill),
        last.since(last_reaped),
    );
    for source in &harness.sources {
        let tally = harness.faults.tally(*source);
        println!("{source}: {tally:?}");
        assert!(
            tally.lost >= count as u64 / 2,
            "{source} lost too few hints: {tally:?}"
        );
        assert_eq!(tally.delivered, 0, "{source}");
    }
    let promised = INTERVAL + sweep + REMOVED_WITHIN + machine * 3;
    assert!(
        last.since(last_reaped) <= promised,
        "promised: {promised:?}"
    );

    harness.two_sweeps();
    assert!(
        control_ids.iter().all(|id| harness.lists(id)),
        "a false death"
    );
    assert_eq!(harness.record().removals().len(), count);
    harness.close();
}

/// Returns the time of the last removal. Checks their number, and that the sweep found each death.
fn last_removal(harness: &Harness, count: usize) -> BootTime {
    let removals = harness.record().removals();
    assert_eq!(removals.len(), count);
    for (event, removal) in &removals {
        let EventKind::Deregistered(session, _) = &event.kind else {
            unreachable!("it is a removal")
        };
        let by_sweep = matches!(removal, Removal::Died(death) if death.source == Source::Sweep);
        assert!(by_sweep, "{}: {removal:?}", session.id);
    }
    removals
        .iter()
        .map(|(event, _)| event.at.boot)
        .max()
        .unwrap()
}

/// Parses the duration from the detail of the sweep: "every 1s, 1000 processes in 1.7 ms, ..".
fn sweep_duration(detail: &str) -> Duration {
    let (_, rest) = detail.split_once(" processes in ").unwrap();
    let (millis, _) = rest.split_once(" ms").unwrap();
    Duration::from_secs_f64(millis.parse::<f64>().unwrap() / 1e3)
}

/// Measures how late this machine wakes up a thread at worst. The sweep is not to blame for that.
struct WakeUpLatency {
    worst_ns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl WakeUpLatency {
    fn measure() -> Self {
        const PERIOD: Duration = Duration::from_millis(5);
        let (worst_ns, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (worst, stopped) = (worst_ns.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let clock = Deadline::after(PERIOD);
                thread::sleep(PERIOD);
                let late = clock.elapsed().saturating_sub(PERIOD).as_nanos();
                worst.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self {
            worst_ns,
            stop,
            thread,
        }
    }

    fn worst(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        Duration::from_nanos(self.worst_ns.load(Ordering::Relaxed))
    }
}
