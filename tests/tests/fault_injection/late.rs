//! Events that come after their time: when the number is another process's, and when a source that
//! was mute speaks again.

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

/// All looks that the loop takes at every suspect lie within this time. The later ones, up to four
/// seconds on, ask the same of the same successor: what spared it at the fifth spares it at the seventh.
const LOOKED_AGAIN_FOR: Duration = Duration::from_millis(300);
const MUTE: Plan = Plan {
    mute: true,
    ..crate::NO_FAULT
};
const HOLD: Plan = Plan {
    hold: true,
    ..crate::NO_FAULT
};

#[test]
fn an_event_that_outlives_its_number_does_not_touch_the_heir() {
    for source in crate::ALL {
        let Some(harness) = Harness::open(&[*source], NO_SWEEP) else {
            continue;
        };
        // Starting, the source has had everybody looked at; the sweep has nothing more to do.
        harness.finds_deaths_again(*source);
        for round in 0..3 {
            if !a_successor_outlives_the_event(&harness, *source, round) {
                return;
            }
        }
        harness.close();
    }
}

/// False where no process can be started under a chosen number.
fn a_successor_outlives_the_event(harness: &Harness, source: Source, round: u32) -> bool {
    let ids = [format!("left-{round}"), format!("taken-over-{round}")];
    let mut first = Harness::test_process(Kind::Sleep);
    let [left, _] = ids.each_ref().map(|id| harness.register(id, first.pid()));
    let held_before = harness.faults.tally(source).held;
    harness.faults.plan(source, HOLD);
    first.kill().unwrap();
    first.wait().unwrap();
    eventually("the event is held back", || {
        harness.faults.tally(source).held > held_before
    });
    assert!(harness.lists(&left), "{source}: something else has told");

    let successor = match TestProcess::take_pid(reaperd(), Kind::Sleep, first.pid()) {
        Ok(successor) => successor,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // It went to a unrelated process, which proves nothing.
            harness.faults.plan(source, Plan::default());
            return true;
        }
        Err(error) => {
            skip(format_args!("no process under a chosen pid here: {error}"));
            return false;
        }
    };
    let successors =
        [&ids[1], &format!("successor-{round}")].map(|id| harness.register(id, successor.pid()));
    let heard_before = harness.faults.tally(source).heard;
    harness.faults.plan(source, Plan::default());
    eventually("the event is let go", || {
        harness.faults.tally(source).heard > heard_before
    });
    stays(harness, &successors, source);
    harness.gone([&left]);
    // The successor's own end is no less an end.
    drop(successor);
    harness.gone(&successors);
    true
}

/// Fails if one of these goes while others, who end later, are found.
fn stays(harness: &Harness, ids: &[SessionId], source: Source) {
    throughout(LOOKED_AGAIN_FOR, || {
        harness.finds_deaths_again(source);
        for id in ids {
            assert!(harness.lists(id), "{source}: {id} is the successor's");
        }
    });
}

#[test]
fn a_source_that_was_mute_works_again_and_the_sweep_did_meanwhile() {
    for source in crate::ALL {
        let Some(harness) = Harness::open(&[*source], Duration::from_millis(200)) else {
            continue;
        };
        harness.faults.plan(*source, MUTE);
        let ids: Vec<_> = (0..5)
            .map(|number| {
                let mut test_process = Harness::test_process(Kind::Sleep);
                let id = harness.register(&format!("unheard-{number}"), test_process.pid());
                test_process.kill().unwrap();
                harness.gone([&id]);
                id
            })
            .collect();
        for id in &ids {
            assert_eq!(harness.found_by(id), Source::Sweep, "{source} is mute");
        }
        let tally = harness.faults.tally(*source);
        assert!(tally.muted > 0 && tally.heard == 0, "{tally:?}");
        harness.faults.plan(*source, Plan::default());
        harness.finds_deaths_again(*source);
        harness.close();
    }
}
