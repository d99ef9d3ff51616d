//! Events that come after their time: when the number is another process's, and when a source that
//! was mute speaks again.

use std::io;
use std::time::Duration;

use reaper_tests::daemon::reaperd;
use reaper_tests::expect::skip;
use reaper_tests::wait::{Deadline, eventually};
use reaper_user::Source;
use reaper_user::registry::SessionId;
use reaper_user::testkit::fault_injection::Plan;
use reaper_user::testkit::test_process::{Kind, Victim};

use crate::stage::{NO_SWEEP, Stage};

/// All looks that the loop takes at every suspect lie within this time. The later ones, up to four
/// seconds on, ask the same of the same heir: what spared it at the fifth spares it at the seventh.
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
        let Some(stage) = Stage::open(&[*source], NO_SWEEP) else {
            continue;
        };
        // Starting, the source has had everybody looked at; the sweep has nothing more to do.
        stage.finds_deaths_again(*source);
        for round in 0..3 {
            if !an_heir_outlives_the_event(&stage, *source, round) {
                return;
            }
        }
        stage.close();
    }
}

/// False where no process can be started under a chosen number.
fn an_heir_outlives_the_event(stage: &Stage, source: Source, round: u32) -> bool {
    let ids = [format!("left-{round}"), format!("taken-over-{round}")];
    let mut first = Stage::victim(Kind::Sleep);
    let [left, _] = ids.each_ref().map(|id| stage.register(id, first.pid()));
    let held_before = stage.faults.tally(source).held;
    stage.faults.plan(source, HOLD);
    first.kill().unwrap();
    first.wait().unwrap();
    eventually("the event is held back", || {
        stage.faults.tally(source).held > held_before
    });
    assert!(stage.lists(&left), "{source}: something else has told");

    let heir = match Victim::take_pid(reaperd(), Kind::Sleep, first.pid()) {
        Ok(heir) => heir,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // It went to a stranger, which proves nothing.
            stage.faults.plan(source, Plan::default());
            return true;
        }
        Err(error) => {
            skip(format_args!("no process under a chosen pid here: {error}"));
            return false;
        }
    };
    let heirs = [&ids[1], &format!("heir-{round}")].map(|id| stage.register(id, heir.pid()));
    let heard_before = stage.faults.tally(source).heard;
    stage.faults.plan(source, Plan::default());
    eventually("the event is let go", || {
        stage.faults.tally(source).heard > heard_before
    });
    stays(stage, &heirs, source);
    stage.gone([&left]);
    // The heir's own end is no less an end.
    drop(heir);
    stage.gone(&heirs);
    true
}

/// Fails if one of these goes while others, who end later, are found.
fn stays(stage: &Stage, ids: &[SessionId], source: Source) {
    let watched = Deadline::after(LOOKED_AGAIN_FOR);
    while !watched.has_passed() {
        stage.finds_deaths_again(source);
        for id in ids {
            assert!(stage.lists(id), "{source}: {id} is the heir's");
        }
    }
}

#[test]
fn a_source_that_was_mute_works_again_and_the_sweep_did_meanwhile() {
    for source in crate::ALL {
        let Some(stage) = Stage::open(&[*source], Duration::from_millis(200)) else {
            continue;
        };
        stage.faults.plan(*source, MUTE);
        let ids: Vec<_> = (0..5)
            .map(|number| {
                let mut victim = Stage::victim(Kind::Sleep);
                let id = stage.register(&format!("unheard-{number}"), victim.pid());
                victim.kill().unwrap();
                stage.gone([&id]);
                id
            })
            .collect();
        for id in &ids {
            assert_eq!(stage.found_by(id), Source::Sweep, "{source} is mute");
        }
        let tally = stage.faults.tally(*source);
        assert!(tally.muted > 0 && tally.heard == 0, "{tally:?}");
        stage.faults.plan(*source, Plan::default());
        stage.finds_deaths_again(*source);
        stage.close();
    }
}
