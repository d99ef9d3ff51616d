//! Sixty sessions of all kinds, half of which die in waves while faults are injected into the
//! hints.

use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaperd::registry::{EventKind, Removal, SessionId};
use reaperd::testkit::fault_injection::{Plan, Tally};
use reaperd::testkit::test_process::{Kind, TestProcess};
use reaperd::{Pid, Source};

use crate::harness::Harness;

/// Long enough for hints to come first, short enough for a test to wait for several.
const SWEEP: Duration = Duration::from_millis(120);
const CONTROLS: usize = 24;
const WAVES: usize = 3;
const WAVE: usize = 10;
const REPLACED: usize = 2;

/// Runs the scenario with these sources and faults and checks every removal.
pub(crate) fn dead_processes_are_removed_once_and_live_ones_stay(sources: &[Source], plan: Plan) {
    let rounds = reaper_tests::scale::scaled(10, 1);
    for _ in 0..rounds {
        let Some(harness) = Harness::open(sources, SWEEP) else {
            return;
        };
        harness.plan(plan);
        let mut scenario = Scenario::register(&harness);
        scenario.run(&harness);
        // Late hints concern processes that are already removed, or alive.
        harness.two_sweeps();
        check_that_faults_happened(&harness, plan);
        check_sources_of_removals(&harness, plan);
        for id in &scenario.controls {
            assert!(harness.lists(id), "a false death of {id}");
        }
        harness.close();
    }
}

struct Scenario {
    controls: Vec<SessionId>,
    _control_processes: Crowd,
    waves: Vec<(Crowd, Vec<SessionId>)>,
    /// Controls have taken over the session ids of these processes.
    replaced: Crowd,
    leaderless: (TestProcess, SessionId),
    executing: (TestProcess, SessionId),
}

fn register_all(harness: &Harness, crowd: &Crowd, name: &str) -> Vec<SessionId> {
    crowd
        .pids()
        .enumerate()
        .map(|(number, pid)| harness.register(&format!("{name}-{number}"), Pid::new(pid).unwrap()))
        .collect()
}

impl Scenario {
    fn register(harness: &Harness) -> Self {
        let replaced = Crowd::start(REPLACED).unwrap();
        register_all(harness, &replaced, "control");
        let control_processes = Crowd::start(CONTROLS).unwrap();
        let controls = register_all(harness, &control_processes, "control");
        let wave = |number| {
            let crowd = Crowd::start(WAVE).unwrap();
            let ids = register_all(harness, &crowd, &format!("wave-{number}"));
            (crowd, ids)
        };
        let waves = (0..WAVES).map(wave).collect();
        Self {
            controls,
            _control_processes: control_processes,
            waves,
            replaced,
            leaderless: harness.start_registered(Kind::LeaderFirst, "leaderless"),
            executing: harness.start_registered(Kind::WorkerExec, "executing"),
        }
    }

    fn run(&mut self, harness: &Harness) {
        let (leaderless, leaderless_id) = &mut self.leaderless;
        leaderless.cue().unwrap();
        leaderless.expect("leader left").unwrap();
        let (executing, executing_id) = &mut self.executing;
        executing.cue().unwrap();
        executing
            .expect(&format!("ready {}", executing.pid()))
            .unwrap();
        self.replaced.kill().unwrap();
        for (crowd, ids) in &mut self.waves {
            crowd.kill().unwrap();
            harness.wait_until_gone(&*ids);
        }
        harness.two_sweeps();
        assert!(harness.lists(leaderless_id), "its other threads are alive");
        assert!(harness.lists(executing_id), "an exec is not a death");

        leaderless.cue().unwrap();
        executing.kill().unwrap();
        harness.wait_until_gone([&*leaderless_id, &*executing_id]);
    }
}

/// With this many expected losses, at least one is required: that none of ten happens has a
/// probability of one in twenty thousand. A run with 10 % lost may send too few hints for that.
const SURE_LOSSES: u64 = 10;

/// A test in which the fault did not happen proves nothing. Of several sources, the quickest may
/// leave no hint to send for another one, so the sum over all sources counts.
fn check_that_faults_happened(harness: &Harness, plan: Plan) {
    let tallies: Vec<_> = harness
        .sources
        .iter()
        .map(|one| harness.faults.tally(*one))
        .collect();
    let sum = |part: fn(&Tally) -> u64| tallies.iter().map(part).sum::<u64>();
    let likely_losses = sum(|tally| tally.sent) * u64::from(plan.lost_percent) / 100;
    let happened = [
        (true, sum(|tally| tally.sent)),
        (plan.mute, sum(|tally| tally.muted)),
        (likely_losses >= SURE_LOSSES, sum(|tally| tally.lost)),
        (plan.repeats > 0, sum(|tally| tally.repeated)),
        (plan.window > 1, sum(|tally| tally.displaced)),
        (!plan.delay.is_zero(), sum(|tally| tally.delayed)),
    ];
    for (planned, times) in happened {
        assert!(!planned || times > 0, "{plan:?}, {tallies:?}");
    }
    let delivered = sum(|tally| tally.delivered);
    if plan == Plan::default() {
        assert_eq!(delivered, sum(|tally| tally.sent), "{tallies:?}");
    }
    if plan.mute || plan.lost_percent == 100 {
        assert_eq!(delivered, 0, "{tallies:?}");
    }
}

fn check_sources_of_removals(harness: &Harness, plan: Plan) {
    let no_hints = plan.mute || plan.lost_percent == 100;
    let (mut by_events, mut replaced) = (0, 0);
    for (event, removal) in harness.record().removals() {
        let EventKind::Deregistered(session, _) = &event.kind else {
            continue;
        };
        match removal {
            Removal::Died(death) => {
                assert!(!session.id.as_str().starts_with("control"), "{death:?}");
                let by_event = harness.sources.contains(&death.source);
                let is_possible = match death.source {
                    Source::Sweep | Source::Register => true,
                    _ => by_event && !no_hints,
                };
                assert!(is_possible, "{}: {death:?}", session.id);
                by_events += usize::from(by_event);
            }
            Removal::Replaced => replaced += 1,
            other => panic!("{}: {other:?}", session.id),
        }
    }
    assert_eq!(replaced, REPLACED);
    // If hints are late, the sweep may find all deaths first.
    if !no_hints && plan.delay.is_zero() {
        assert!(by_events > 0, "no hint has led to a removal");
    }
}
