//! Sixty sessions of all kinds, half of which die in waves, whatever befalls the hints.

use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaperd::registry::{EventKind, Removal, SessionId};
use reaperd::testkit::fault_injection::{Plan, Tally};
use reaperd::testkit::test_process::{Kind, TestProcess};
use reaperd::{Pid, Source};

use crate::harness::Harness;

/// Long enough for hints to come first, short enough for a test to wait for several.
const SWEEP: Duration = Duration::from_millis(120);
const LIVING: usize = 24;
const WAVES: usize = 3;
const WAVE: usize = 10;
const FORMER: usize = 2;

/// I1, I2 and I3 under this plan for these sources.
pub(crate) fn the_dead_go_once_and_the_living_stay(sources: &[Source], plan: Plan) {
    let rounds = reaper_tests::scale::scaled(10, 1);
    for _ in 0..rounds {
        let Some(harness) = Harness::open(sources, SWEEP) else {
            return;
        };
        harness.plan(plan);
        let mut cast = Scenario::enter(&harness);
        cast.play(&harness);
        // What is late finds nobody any more, or somebody alive.
        harness.two_sweeps();
        the_faults_happened(&harness, plan);
        each_death_was_found_by_one_who_could(&harness, plan);
        for id in &cast.living {
            assert!(harness.lists(id), "{id} lives");
        }
        harness.close();
    }
}

struct Scenario {
    living: Vec<SessionId>,
    _alive: Crowd,
    waves: Vec<(Crowd, Vec<SessionId>)>,
    /// Their sessions were taken over by two of the living, under the same ids.
    former: Crowd,
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
    fn enter(harness: &Harness) -> Self {
        let former = Crowd::start(FORMER).unwrap();
        register_all(harness, &former, "living");
        let alive = Crowd::start(LIVING).unwrap();
        let living = register_all(harness, &alive, "living");
        let wave = |number| {
            let crowd = Crowd::start(WAVE).unwrap();
            let ids = register_all(harness, &crowd, &format!("wave-{number}"));
            (crowd, ids)
        };
        let waves = (0..WAVES).map(wave).collect();
        let one = |kind, name| {
            let test_process = Harness::test_process(kind);
            let id = harness.register(name, test_process.pid());
            (test_process, id)
        };
        Self {
            living,
            _alive: alive,
            waves,
            former,
            leaderless: one(Kind::LeaderFirst, "leaderless"),
            executing: one(Kind::WorkerExec, "executing"),
        }
    }

    fn play(&mut self, harness: &Harness) {
        let (leaderless, leaderless_id) = &mut self.leaderless;
        leaderless.cue().unwrap();
        leaderless.expect("leader left").unwrap();
        let (executing, executing_id) = &mut self.executing;
        executing.cue().unwrap();
        executing
            .expect(&format!("ready {}", executing.pid()))
            .unwrap();
        self.former.kill().unwrap();
        for (crowd, ids) in &mut self.waves {
            crowd.kill().unwrap();
            harness.gone(&*ids);
        }
        harness.two_sweeps();
        assert!(harness.lists(leaderless_id), "its other threads run");
        assert!(harness.lists(executing_id), "it became another program");

        leaderless.cue().unwrap();
        executing.kill().unwrap();
        harness.gone([&*leaderless_id, &*executing_id]);
    }
}

/// Losses that a plan has to make probable before one is insisted on: that none of ten comes is a chance
/// of one in twenty thousand, and a run with a tenth lost may have said too little for that.
const SURE_LOSSES: u64 = 10;

/// A test of a fault that did not happen shows nothing. Of several sources the quickest may leave
/// nothing to tell for another.
fn the_faults_happened(harness: &Harness, plan: Plan) {
    let tallies: Vec<_> = harness
        .sources
        .iter()
        .map(|one| harness.faults.tally(*one))
        .collect();
    let sum = |part: fn(&Tally) -> u64| tallies.iter().map(part).sum::<u64>();
    let likely_losses = sum(|tally| tally.said) * u64::from(plan.lost_percent) / 100;
    let happened = [
        (true, sum(|tally| tally.said)),
        (plan.mute, sum(|tally| tally.muted)),
        (likely_losses >= SURE_LOSSES, sum(|tally| tally.lost)),
        (plan.repeats > 0, sum(|tally| tally.repeated)),
        (plan.window > 1, sum(|tally| tally.displaced)),
        (!plan.delay.is_zero(), sum(|tally| tally.delayed)),
    ];
    for (planned, times) in happened {
        assert!(!planned || times > 0, "{plan:?}, {tallies:?}");
    }
    let heard = sum(|tally| tally.heard);
    if plan == Plan::default() {
        assert_eq!(heard, sum(|tally| tally.said), "{tallies:?}");
    }
    if plan.mute || plan.lost_percent == 100 {
        assert_eq!(heard, 0, "{tallies:?}");
    }
}

fn each_death_was_found_by_one_who_could(harness: &Harness, plan: Plan) {
    let deaf = plan.mute || plan.lost_percent == 100;
    let (mut by_events, mut replaced) = (0, 0);
    for (event, removal) in harness.record().removals() {
        let EventKind::Deregistered(session, _) = &event.kind else {
            continue;
        };
        match removal {
            Removal::Died(death) => {
                assert!(!session.id.as_str().starts_with("living"), "{death:?}");
                let by_event = harness.sources.contains(&death.source);
                let could = match death.source {
                    Source::Sweep | Source::Register => true,
                    _ => by_event && !deaf,
                };
                assert!(could, "{}: {death:?}", session.id);
                by_events += usize::from(by_event);
            }
            // The processes of the first two had their sessions taken over.
            Removal::Replaced => replaced += 1,
            other => panic!("{}: {other:?}", session.id),
        }
    }
    assert_eq!(replaced, FORMER);
    // Those whose hints come late may all be found by the sweep.
    if !deaf && plan.delay.is_zero() {
        assert!(by_events > 0, "no hint has led to anything");
    }
}
