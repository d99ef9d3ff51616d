//! What looks like an end to one source or another, and is none.

use reaper_registry::ExitStatus;
use rustix::process::Signal;

use super::Fault;
use super::kernel_version::kernel_before;
use super::stage::{KILLED, Stage, Watching};
use crate::testkit::test_process::{Kind, Victim};

pub(super) fn leader_first(stage: &Stage) -> Result<(), Fault> {
    linux_only("a process without its main thread")?;
    let mut victim = stage.victim(Kind::LeaderFirst)?;
    let mut watching = stage.watch(&victim)?;
    victim.cue()?;
    victim.expect("leader left")?;
    stage.lives(&watching, "its leader left, its other threads run")?;
    watching.order(|| victim.cue())?;
    let exit = stage.seen_end(watching)?;
    // Before Linux 6.1 what the probe sees in the kernel is the leader's status.
    let leader = kernel_before(6, 1).then_some(ExitStatus::Code(0));
    if ![None, Some(ExitStatus::Code(7)), leader].contains(&exit.status()) {
        return Err(Fault::Untrue(format!("{exit}, and it was code 7")));
    }
    Ok(())
}

pub(super) fn worker_exec(stage: &Stage) -> Result<(), Fault> {
    becomes_another_program(stage, Kind::WorkerExec)
}

pub(super) fn self_exec(stage: &Stage) -> Result<(), Fault> {
    becomes_another_program(stage, Kind::SelfExec)
}

fn becomes_another_program(stage: &Stage, kind: Kind) -> Result<(), Fault> {
    let mut victim = stage.victim(kind)?;
    let watching = stage.watch(&victim)?;
    victim.cue()?;
    victim.expect(&format!("ready {}", victim.pid()))?;
    stage.lives(&watching, "it became another program")?;
    killed(stage, watching, victim)
}

pub(super) fn thread_churn(stage: &Stage) -> Result<(), Fault> {
    let mut victim = stage.victim(Kind::ThreadChurn { threads: 8 })?;
    let watching = stage.watch(&victim)?;
    victim.expect("churned")?;
    stage.lives(&watching, "two thousand of its threads ended")?;
    killed(stage, watching, victim)
}

pub(super) fn parent_first(stage: &Stage) -> Result<(), Fault> {
    let mut victim = stage.victim(Kind::ParentFirst)?;
    let watching = stage.watch(&victim)?;
    victim.cue()?;
    victim.expect("orphaned")?;
    stage.lives(&watching, "its parent ended")?;
    killed(stage, watching, victim)
}

pub(super) fn stopped(stage: &Stage) -> Result<(), Fault> {
    let victim = stage.victim(Kind::Sleep)?;
    let watching = stage.watch(&victim)?;
    victim.signal(Signal::STOP)?;
    stage.lives(&watching, "it is stopped")?;
    victim.signal(Signal::CONT)?;
    stage.lives(&watching, "it was continued")?;
    killed(stage, watching, victim)
}

pub(super) fn traced(stage: &Stage) -> Result<(), Fault> {
    linux_only("a tracer that seizes its child")?;
    let mut victim = stage.victim(Kind::Traced)?;
    let watching = stage.watch(&victim)?;
    victim.cue()?;
    victim.expect("traced")?;
    stage.lives(&watching, "its tracer has stopped it")?;
    killed(stage, watching, victim)
}

/// After all that, its end is seen like any other's.
fn killed(stage: &Stage, mut watching: Watching, mut victim: Victim) -> Result<(), Fault> {
    watching.order(|| victim.kill())?;
    stage.end_of(watching, KILLED).map(drop)
}

fn linux_only(what: &str) -> Result<(), Fault> {
    if cfg!(target_os = "linux") {
        return Ok(());
    }
    Err(Fault::Impossible(format!("{what} exists on Linux alone")))
}
