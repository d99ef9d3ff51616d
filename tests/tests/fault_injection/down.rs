//! A source dies and comes back: what died unheard is found as it falls, what dies while it is down
//! is found as it rises, and then it works again. The sweep's own time never comes here.

use reaper_tests::wait::eventually;
use reaperd::Source;
use reaperd::registry::{SessionId, SourceHealth};
use reaperd::testkit::fault_injection::{KILLED, Plan};
use reaperd::testkit::test_process::{Kind, TestProcess};

use crate::harness::{Harness, NO_SWEEP, descriptors};

#[test]
fn the_probe_dies_and_comes_back() {
    dies_and_comes_back(Source::Ebpf);
}

#[test]
fn the_connector_dies_and_comes_back() {
    dies_and_comes_back(Source::Netlink);
}

#[test]
fn the_pidfds_die_and_come_back() {
    dies_and_comes_back(Source::Pidfd);
}

/// A busy machine may take longer over a kill than the source over its return.
const TRIES: usize = 5;

fn dies_and_comes_back(source: Source) {
    let Some(harness) = Harness::open(&[source], NO_SWEEP) else {
        return;
    };
    let died_meanwhile = (0..TRIES).any(|attempt| dies_once(&harness, source, attempt));
    assert!(died_meanwhile, "nobody died while {source} was down");
    harness.close();
}

/// Answers whether somebody has died while it was down.
fn dies_once(harness: &Harness, source: Source, attempt: usize) -> bool {
    harness.finds_deaths_again(source);
    let before = harness.record().last();

    // Deaf before it dies, and nobody knows.
    let (mut unheard, unheard_id) = member(harness, format!("unheard-{attempt}"));
    let (mut meanwhile, meanwhile_id) = member(harness, format!("meanwhile-{attempt}"));
    let (_living, living_id) = member(harness, format!("living-{attempt}"));
    let mute = Plan {
        mute: true,
        ..Plan::default()
    };
    let muted = harness.faults.tally(source).muted;
    harness.faults.plan(source, mute);
    unheard.kill().unwrap();
    eventually("its death is not heard of", || {
        harness.faults.tally(source).muted > muted
    });
    assert!(harness.lists(&unheard_id));

    let _ours = descriptors();
    harness.faults.kill(source);
    let mut fell = None;
    eventually("it is reported down", || {
        fell = harness.record().said(source, SourceHealth::Down, before);
        fell.is_some()
    });
    let (fell, reason) = fell.unwrap();
    assert_eq!(reason, KILLED);
    // Found by the look at everybody that its fall has asked for: it has not come back yet.
    harness.gone([&unheard_id]);
    assert_eq!(harness.found_by(&unheard_id), Source::Sweep);
    harness.faults.plan(source, Plan::default());
    meanwhile.kill().unwrap();
    meanwhile.wait_unreaped().unwrap();
    let returned = harness.record().said(source, SourceHealth::Up, fell);
    let mut rose = None;
    eventually("it is reported up", || {
        rose = harness.record().said(source, SourceHealth::Up, fell);
        rose.is_some()
    });
    let (rose, _) = rose.unwrap();
    let removal = harness.record().removals_of(&unheard_id);
    assert!(removal[0].0.seq < rose, "nobody was looked at as it fell");
    harness.gone([&meanwhile_id]);
    harness.finds_deaths_again(source);
    assert!(harness.lists(&living_id));
    returned.is_none()
}

fn member(harness: &Harness, name: String) -> (TestProcess, SessionId) {
    let test_process = Harness::test_process(Kind::Sleep);
    let id = harness.register(&name, test_process.pid());
    (test_process, id)
}
