//! A source fails and restarts. Deaths whose hints it lost are found by the sweep that the failure
//! requests, deaths while it is down by the sweep that the restart requests, and then it works
//! again. The sweep interval is never reached here.

use reaper_tests::wait::{eventually, eventually_some};
use reaperd::Source;
use reaperd::registry::SourceHealth;
use reaperd::testkit::fault_injection::{KILLED, Plan};
use reaperd::testkit::test_process::Kind;

use crate::harness::{Harness, NO_SWEEP, lock_descriptors};

#[test]
fn a_failed_probe_restarts_and_no_death_is_lost() {
    fails_and_restarts(Source::Ebpf);
}

#[test]
fn a_failed_connector_restarts_and_no_death_is_lost() {
    fails_and_restarts(Source::Netlink);
}

#[test]
fn a_failed_pidfd_source_restarts_and_no_death_is_lost() {
    fails_and_restarts(Source::Pidfd);
}

/// On a busy machine, the kill may take longer than the restart of the source.
const TRIES: usize = 5;

fn fails_and_restarts(source: Source) {
    let Some(harness) = Harness::open(&[source], NO_SWEEP) else {
        return;
    };
    let died_while_down = (0..TRIES).any(|attempt| fails_once(&harness, source, attempt));
    assert!(died_while_down, "no process died while {source} was down");
    harness.close();
}

/// Returns whether a process died while the source was down.
fn fails_once(harness: &Harness, source: Source, attempt: usize) -> bool {
    harness.wait_until_finds_deaths(source);
    let before = harness.record().last();

    // Mute before it fails, and not reported as such.
    let start = |name| harness.start_registered(Kind::Sleep, &format!("{name}-{attempt}"));
    let (mut unheard, unheard_id) = start("unheard");
    let (mut while_down, while_down_id) = start("while-down");
    let (_control, control_id) = start("control");
    let muted = harness.faults.tally(source).muted;
    harness.mute(source);
    unheard.kill().unwrap();
    eventually("the hint is lost", || {
        harness.faults.tally(source).muted > muted
    });
    assert!(harness.lists(&unheard_id));

    let _lock = lock_descriptors();
    harness.faults.kill(source);
    let (down, reason) = eventually_some("the source is reported down", || {
        harness
            .record()
            .state_change(source, SourceHealth::Down, before)
    });
    assert_eq!(reason, KILLED);
    // Found by the sweep that the failure requested: the source is still down.
    harness.wait_until_gone([&unheard_id]);
    assert_eq!(harness.found_by(&unheard_id), Source::Sweep);
    harness.faults.plan(source, Plan::default());
    while_down.kill().unwrap();
    while_down.wait_unreaped().unwrap();
    let already_up = harness
        .record()
        .state_change(source, SourceHealth::Up, down);
    let (up, _) = eventually_some("the source is reported up", || {
        harness
            .record()
            .state_change(source, SourceHealth::Up, down)
    });
    let removal = harness.record().removals_of(&unheard_id);
    assert!(removal[0].0.seq < up, "no sweep ran after the failure");
    harness.wait_until_gone([&while_down_id]);
    harness.wait_until_finds_deaths(source);
    assert!(harness.lists(&control_id));
    already_up.is_none()
}
