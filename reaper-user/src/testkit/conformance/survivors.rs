//! What looks like an end to one source or another, and is none.

use reaper_registry::ExitStatus;
use rustix::process::Signal;

use super::Fault;
use super::harness::{Harness, KILLED, Watching};
use super::kernel_version::kernel_before;
use crate::testkit::test_process::{Kind, TestProcess};

pub(super) fn leader_first(harness: &Harness) -> Result<(), Fault> {
    linux_only("a process without its main thread")?;
    let mut test_process = harness.test_process(Kind::LeaderFirst)?;
    let mut watching = harness.watch(&test_process)?;
    test_process.cue()?;
    test_process.expect("leader left")?;
    harness.lives(&watching, "its leader left, its other threads run")?;
    watching.order(|| test_process.cue())?;
    let exit = harness.seen_end(watching)?;
    // Before Linux 6.1 what the probe sees in the kernel is the leader's status.
    let leader = kernel_before(6, 1).then_some(ExitStatus::Code(0));
    if ![None, Some(ExitStatus::Code(7)), leader].contains(&exit.status()) {
        return Err(Fault::Untrue(format!("{exit}, and it was code 7")));
    }
    Ok(())
}

pub(super) fn worker_exec(harness: &Harness) -> Result<(), Fault> {
    becomes_another_program(harness, Kind::WorkerExec)
}

pub(super) fn self_exec(harness: &Harness) -> Result<(), Fault> {
    becomes_another_program(harness, Kind::SelfExec)
}

fn becomes_another_program(harness: &Harness, kind: Kind) -> Result<(), Fault> {
    let mut test_process = harness.test_process(kind)?;
    let watching = harness.watch(&test_process)?;
    test_process.cue()?;
    test_process.expect(&format!("ready {}", test_process.pid()))?;
    harness.lives(&watching, "it became another program")?;
    killed(harness, watching, test_process)
}

pub(super) fn thread_churn(harness: &Harness) -> Result<(), Fault> {
    let mut test_process = harness.test_process(Kind::ThreadChurn { threads: 8 })?;
    let watching = harness.watch(&test_process)?;
    test_process.expect("churned")?;
    harness.lives(&watching, "two thousand of its threads ended")?;
    killed(harness, watching, test_process)
}

pub(super) fn parent_first(harness: &Harness) -> Result<(), Fault> {
    let mut test_process = harness.test_process(Kind::ParentFirst)?;
    let watching = harness.watch(&test_process)?;
    test_process.cue()?;
    test_process.expect("orphaned")?;
    harness.lives(&watching, "its parent ended")?;
    killed(harness, watching, test_process)
}

pub(super) fn stopped(harness: &Harness) -> Result<(), Fault> {
    let test_process = harness.test_process(Kind::Sleep)?;
    let watching = harness.watch(&test_process)?;
    test_process.signal(Signal::STOP)?;
    harness.lives(&watching, "it is stopped")?;
    test_process.signal(Signal::CONT)?;
    harness.lives(&watching, "it was continued")?;
    killed(harness, watching, test_process)
}

pub(super) fn traced(harness: &Harness) -> Result<(), Fault> {
    linux_only("a tracer that seizes its child")?;
    let mut test_process = harness.test_process(Kind::Traced)?;
    let watching = harness.watch(&test_process)?;
    test_process.cue()?;
    test_process.expect("traced")?;
    harness.lives(&watching, "its tracer has stopped it")?;
    killed(harness, watching, test_process)
}

/// After all that, its end is seen like any other's.
fn killed(
    harness: &Harness,
    mut watching: Watching,
    mut test_process: TestProcess,
) -> Result<(), Fault> {
    watching.order(|| test_process.kill())?;
    harness.end_of(watching, KILLED).map(drop)
}

fn linux_only(what: &str) -> Result<(), Fault> {
    if cfg!(target_os = "linux") {
        return Ok(());
    }
    Err(Fault::Impossible(format!("{what} exists on Linux alone")))
}
