//! Late hints: when the pid already belongs to a successor, and when a mute source sends hints
//! again.

use std::io;
use std::time::Duration;

use reaper_tests::daemon::reaperd;
use reaper_tests::expect::skip;
use reaper_tests::wait::{eventually, throughout};
use reaperd::Source;
use reaperd::registry::SessionId;
use reaperd::testkit::fault_injection::Plan;
use reaperd::testkit::test_process::{Kind, TestProcess};

use crate::harness::{Harness, NO_SWEEP};

/// The loop's first rechecks of a suspect lie within this time. The later ones, up to four seconds
/// on, repeat the same check of the same process: what holds at the fifth holds at the seventh.
const RECHECKED_FOR: Duration = Duration::from_millis(300);

#[test]
fn a_late_hint_does_not_remove_the_successor_of_a_reused_pid() {
    for source in crate::ALL {
        let Some(harness) = Harness::open(&[*source], NO_SWEEP) else {
            continue;
        };
        // After this, the sweep that the start of the source requested is over.
        harness.wait_until_finds_deaths(*source);
        for round in 0..3 {
            if !successor_survives_late_hint(&harness, *source, round) {
                return;
            }
        }
        harness.close();
    }
}

/// Returns false where pids cannot be chosen.
fn successor_survives_late_hint(harness: &Harness, source: Source, round: u32) -> bool {
    let ids = [format!("first-{round}"), format!("taken-over-{round}")];
    let mut first = Harness::test_process(Kind::Sleep);
    let [first_id, _] = ids.each_ref().map(|id| harness.register(id, first.pid()));
    let held_before = harness.faults.tally(source).held;
    let hold = Plan {
        hold: true,
        ..Plan::default()
    };
    harness.faults.plan(source, hold);
    first.kill().unwrap();
    first.wait().unwrap();
    eventually("the hint is held back", || {
        harness.faults.tally(source).held > held_before
    });
    assert!(
        harness.lists(&first_id),
        "{source}: removed without the hint"
    );

    let successor = match TestProcess::take_pid(reaperd(), Kind::Sleep, first.pid()) {
        Ok(successor) => successor,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // An unrelated process got the pid, which proves nothing.
            harness.faults.plan(source, Plan::default());
            return true;
        }
        Err(error) => {
            skip(format_args!("pids cannot be chosen here: {error}"));
            return false;
        }
    };
    let successors =
        [&ids[1], &format!("successor-{round}")].map(|id| harness.register(id, successor.pid()));
    let delivered_before = harness.faults.tally(source).delivered;
    harness.faults.plan(source, Plan::default());
    eventually("the hint is delivered", || {
        harness.faults.tally(source).delivered > delivered_before
    });
    check_stay_listed(harness, &successors, source);
    harness.wait_until_gone([&first_id]);
    // The successor's own death is found, too.
    drop(successor);
    harness.wait_until_gone(&successors);
    true
}

/// Fails if one of these sessions is removed while later deaths of other processes are found.
fn check_stay_listed(harness: &Harness, ids: &[SessionId], source: Source) {
    throughout(RECHECKED_FOR, || {
        harness.wait_until_finds_deaths(source);
        for id in ids {
            assert!(harness.lists(id), "{source}: a false death of {id}");
        }
    });
}

#[test]
fn while_a_source_is_mute_the_sweep_finds_deaths_and_later_the_source_does_again() {
    for source in crate::ALL {
        let Some(harness) = Harness::open(&[*source], Duration::from_millis(200)) else {
            continue;
        };
        harness.mute(*source);
        let ids: Vec<_> = (0..5)
            .map(|number| {
                let name = format!("unheard-{number}");
                let (mut test_process, id) = harness.start_registered(Kind::Sleep, &name);
                test_process.kill().unwrap();
                harness.wait_until_gone([&id]);
                id
            })
            .collect();
        for id in &ids {
            assert_eq!(harness.found_by(id), Source::Sweep, "{source} is mute");
        }
        let tally = harness.faults.tally(*source);
        assert!(tally.muted > 0 && tally.delivered == 0, "{tally:?}");
        harness.faults.plan(*source, Plan::default());
        harness.wait_until_finds_deaths(*source);
        harness.close();
    }
}
