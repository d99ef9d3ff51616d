//! Every event lost, a thousand sessions: the promise of the sweep, measured.

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

/// The product's own is 5 s; the promise is the same with any.
const INTERVAL: Duration = Duration::from_secs(1);
/// What a verdict and its removal may take after the sweep has pointed at the dead.
const COMMITTED_WITHIN: Duration = Duration::from_millis(150);

#[test]
fn everything_dropped_and_a_thousand_sessions() {
    let count = reaper_tests::scale::scaled(4_000, 500);
    let Some(harness) = Harness::open(crate::ALL, INTERVAL) else {
        return;
    };
    harness.plan(Plan {
        lost_percent: 100,
        ..Plan::default()
    });
    let mut dying = Crowd::start(count).unwrap();
    let living = Crowd::start(count).unwrap();
    let register = |pid| harness.register(&format!("of-{pid}"), Pid::new(pid).unwrap());
    let dead_ids: Vec<SessionId> = dying.pids().map(register).collect();
    let living_ids: Vec<SessionId> = living.pids().map(register).collect();
    harness.two_sweeps();
    assert_eq!(harness.reaper.len(), 2 * count);

    let lateness = Lateness::measured();
    let from = clock::now().boot;
    dying.kill().unwrap();
    let until = clock::now().boot;
    harness.gone(&dead_ids);
    let machine = lateness.worst();
    let swept = harness.status(Source::Sweep).detail;
    let sweep = own_time(&swept);

    let last = last_removal(&harness, count);
    println!(
        "{count} of {} died; the last was gone {:?} after the first kill and {:?} after the last \
         reaping; a sweep took {sweep:?} ({swept}); the machine was late by {machine:?}",
        2 * count,
        last.since(from),
        last.since(until),
    );
    for source in &harness.sources {
        let tally = harness.faults.tally(*source);
        println!("{source}: {tally:?}");
        assert!(
            tally.lost >= count as u64 / 2,
            "{source} lost next to nothing: {tally:?}"
        );
        assert_eq!(tally.heard, 0, "{source}");
    }
    let promised = INTERVAL + sweep + COMMITTED_WITHIN + machine * 3;
    assert!(last.since(until) <= promised, "promised: {promised:?}");

    harness.two_sweeps();
    assert!(
        living_ids.iter().all(|id| harness.lists(id)),
        "all of them live"
    );
    assert_eq!(harness.record().removals().len(), count);
    harness.close();
}

/// When the last of so many removals was, each of which was the sweep's.
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

/// What the sweep says of its own time: "every 1s, 1000 processes in 1.7 ms, ..".
fn own_time(detail: &str) -> Duration {
    let (_, rest) = detail.split_once(" processes in ").unwrap();
    let (millis, _) = rest.split_once(" ms").unwrap();
    Duration::from_secs_f64(millis.parse::<f64>().unwrap() / 1e3)
}

/// How late this machine wakes a thread up at worst: what it costs the sweep is none of its faults.
struct Lateness {
    worst_ns: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Lateness {
    fn measured() -> Self {
        const NAP: Duration = Duration::from_millis(5);
        let (worst_ns, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (worst, is_over) = (worst_ns.clone(), over.clone());
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let nap = Deadline::after(NAP);
                thread::sleep(NAP);
                let late = nap.elapsed().saturating_sub(NAP).as_nanos();
                worst.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self {
            worst_ns,
            over,
            thread,
        }
    }

    fn worst(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        Duration::from_nanos(self.worst_ns.load(Ordering::Relaxed))
    }
}
