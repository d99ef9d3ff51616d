//! A source dies and comes back: what died unheard is found as it falls, what dies while it is down
//! is found as it rises, and then it works again. The sweep's own time never comes here.

use reaper_tests::wait::eventually;
use reaper_user::Source;
use reaper_user::registry::{SessionId, SourceHealth};
use reaper_user::testkit::fault_injection::{KILLED, Plan};
use reaper_user::testkit::test_process::{Kind, Victim};

use crate::stage::{NO_SWEEP, Stage, descriptors};

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
    let Some(stage) = Stage::open(&[source], NO_SWEEP) else {
        return;
    };
    let died_meanwhile = (0..TRIES).any(|attempt| dies_once(&stage, source, attempt));
    assert!(died_meanwhile, "nobody died while {source} was down");
    stage.close();
}

/// Answers whether somebody has died while it was down.
fn dies_once(stage: &Stage, source: Source, attempt: usize) -> bool {
    stage.finds_deaths_again(source);
    let before = stage.record().last();

    // Deaf before it dies, and nobody knows.
    let (mut unheard, unheard_id) = member(stage, format!("unheard-{attempt}"));
    let (mut meanwhile, meanwhile_id) = member(stage, format!("meanwhile-{attempt}"));
    let (_living, living_id) = member(stage, format!("living-{attempt}"));
    let mute = Plan {
        mute: true,
        ..Plan::default()
    };
    let muted = stage.faults.tally(source).muted;
    stage.faults.plan(source, mute);
    unheard.kill().unwrap();
    eventually("its death is not heard of", || {
        stage.faults.tally(source).muted > muted
    });
    assert!(stage.lists(&unheard_id));

    let _ours = descriptors();
    stage.faults.kill(source);
    let mut fell = None;
    eventually("it is reported down", || {
        fell = stage.record().said(source, SourceHealth::Down, before);
        fell.is_some()
    });
    let (fell, reason) = fell.unwrap();
    assert_eq!(reason, KILLED);
    // Found by the look at everybody that its fall has asked for: it has not come back yet.
    stage.gone([&unheard_id]);
    assert_eq!(stage.found_by(&unheard_id), Source::Sweep);
    stage.faults.plan(source, Plan::default());
    meanwhile.kill().unwrap();
    meanwhile.wait_unreaped().unwrap();
    let returned = stage.record().said(source, SourceHealth::Up, fell);
    let mut rose = None;
    eventually("it is reported up", || {
        rose = stage.record().said(source, SourceHealth::Up, fell);
        rose.is_some()
    });
    let (rose, _) = rose.unwrap();
    let removal = stage.record().removals_of(&unheard_id);
    assert!(removal[0].0.seq < rose, "nobody was looked at as it fell");
    stage.gone([&meanwhile_id]);
    stage.finds_deaths_again(source);
    assert!(stage.lists(&living_id));
    returned.is_none()
}

fn member(stage: &Stage, name: String) -> (Victim, SessionId) {
    let victim = Stage::victim(Kind::Sleep);
    let id = stage.register(&name, victim.pid());
    (victim, id)
}
