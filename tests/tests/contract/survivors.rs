//! What looks like an end to one source or another, and is none.
#![expect(clippy::unwrap_used, reason = "steps of tests")]

use reaper_registry::ExitStatus;
use reaper_user::victims::{Kind, Victim};
use rustix::process::Signal;

use crate::stage::{KILLED, Stage, Watching};

pub(crate) fn leader_first(stage: &Stage) {
    let mut victim = Stage::victim(Kind::LeaderFirst);
    let watching = stage.watch(&victim);
    victim.cue().unwrap();
    victim.expect("leader left").unwrap();
    stage.lives(&watching, "its leader left, its other threads run");
    victim.cue().unwrap();
    let exit = stage.seen_end(watching);
    // Of the probe's kernel before 6.1 the leader's status speaks for the group.
    let told = exit.status();
    let leader = kernel_before(6, 1).then_some(ExitStatus::Code(0));
    assert!(
        [None, Some(ExitStatus::Code(7)), leader].contains(&told),
        "{exit}"
    );
    assert_eq!(victim.wait().unwrap(), ExitStatus::Code(7));
}

pub(crate) fn worker_exec(stage: &Stage) {
    becomes_another_program(stage, Kind::WorkerExec);
}

pub(crate) fn self_exec(stage: &Stage) {
    becomes_another_program(stage, Kind::SelfExec);
}

fn becomes_another_program(stage: &Stage, kind: Kind) {
    let mut victim = Stage::victim(kind);
    let watching = stage.watch(&victim);
    victim.cue().unwrap();
    victim.expect(&format!("ready {}", victim.pid())).unwrap();
    stage.lives(&watching, "it became another program");
    killed(stage, watching, victim);
}

pub(crate) fn thread_churn(stage: &Stage) {
    let mut victim = Stage::victim(Kind::ThreadChurn { threads: 8 });
    let watching = stage.watch(&victim);
    victim.expect("churned").unwrap();
    stage.lives(&watching, "two thousand of its threads ended");
    killed(stage, watching, victim);
}

pub(crate) fn stopped(stage: &Stage) {
    let victim = Stage::victim(Kind::Sleep);
    let watching = stage.watch(&victim);
    victim.signal(Signal::STOP).unwrap();
    stage.lives(&watching, "it is stopped");
    victim.signal(Signal::CONT).unwrap();
    stage.lives(&watching, "it was continued");
    killed(stage, watching, victim);
}

/// After all that, its end is seen like any other's.
fn killed(stage: &Stage, watching: Watching, mut victim: Victim) {
    victim.kill().unwrap();
    stage.end_of(watching, KILLED);
}

fn kernel_before(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().ok());
    let version = (numbers.next().flatten(), numbers.next().flatten());
    version < (Some(major), Some(minor))
}
