//! Events that resemble a death to some source but are none.

use reaper_registry::ExitStatus;
use rustix::process::Signal;

use super::Fault;
use super::harness::{Harness, KILLED, PendingWatch};
use super::kernel_version::kernel_before;
use crate::testkit::test_process::{Kind, TestProcess};

pub(super) fn leader_first(harness: &Harness) -> Result<(), Fault> {
    linux_only("a process without its main thread")?;
    let mut test_process = harness.test_process(Kind::LeaderFirst)?;
    let mut watch = harness.watch(&test_process)?;
    test_process.cue()?;
    test_process.expect("leader left")?;
    harness.expect_alive(&watch, "its main thread exited and its other threads run")?;
    watch.end_by(|| test_process.cue())?;
    let exit = harness.wait_for_exit(watch)?;
    // Before Linux 6.1 the probe reads the status of the main thread.
    let leader = kernel_before(6, 1).then_some(ExitStatus::Code(0));
    if ![None, Some(ExitStatus::Code(7)), leader].contains(&exit.status()) {
        return Err(Fault::WrongReport(format!("{exit}; expected code 7")));
    }
    Ok(())
}

pub(super) fn worker_exec(harness: &Harness) -> Result<(), Fault> {
    survives_exec(harness, Kind::WorkerExec)
}

pub(super) fn self_exec(harness: &Harness) -> Result<(), Fault> {
    survives_exec(harness, Kind::SelfExec)
}

fn survives_exec(harness: &Harness, kind: Kind) -> Result<(), Fault> {
    let mut test_process = harness.test_process(kind)?;
    let watch = harness.watch(&test_process)?;
    test_process.cue()?;
    test_process.expect(&format!("ready {}", test_process.pid()))?;
    harness.expect_alive(&watch, "it executed another program")?;
    kill(harness, watch, test_process)
}

pub(super) fn thread_churn(harness: &Harness) -> Result<(), Fault> {
    let mut test_process = harness.test_process(Kind::ThreadChurn { threads: 8 })?;
    let watch = harness.watch(&test_process)?;
    test_process.expect("churned")?;
    harness.expect_alive(&watch, "2,000 of its threads exited")?;
    kill(harness, watch, test_process)
}

pub(super) fn parent_first(harness: &Harness) -> Result<(), Fault> {
    let mut test_process = harness.test_process(Kind::ParentFirst)?;
    let watch = harness.watch(&test_process)?;
    test_process.cue()?;
    test_process.expect("orphaned")?;
    harness.expect_alive(&watch, "its parent died")?;
    kill(harness, watch, test_process)
}

pub(super) fn stopped(harness: &Harness) -> Result<(), Fault> {
    let test_process = harness.test_process(Kind::Sleep)?;
    let watch = harness.watch(&test_process)?;
    test_process.signal(Signal::STOP)?;
    harness.expect_alive(&watch, "it is stopped")?;
    test_process.signal(Signal::CONT)?;
    harness.expect_alive(&watch, "it was continued")?;
    kill(harness, watch, test_process)
}

pub(super) fn traced(harness: &Harness) -> Result<(), Fault> {
    linux_only("a tracer that seizes its child")?;
    let mut test_process = harness.test_process(Kind::Traced)?;
    let watch = harness.watch(&test_process)?;
    test_process.cue()?;
    test_process.expect("traced")?;
    harness.expect_alive(&watch, "its tracer stopped it")?;
    kill(harness, watch, test_process)
}

/// Kills the process and checks that the death is reported as usual.
fn kill(
    harness: &Harness,
    mut watch: PendingWatch,
    mut test_process: TestProcess,
) -> Result<(), Fault> {
    watch.end_by(|| test_process.kill())?;
    harness.expect_exit(watch, KILLED).map(drop)
}

fn linux_only(what: &str) -> Result<(), Fault> {
    if cfg!(target_os = "linux") {
        return Ok(());
    }
    Err(Fault::Unsupported(format!("{what} requires Linux")))
}
