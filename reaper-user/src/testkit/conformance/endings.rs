//! The ways in which processes end.

use reaper_registry::ExitStatus;
use rustix::process::Signal;

use super::Fault;
use super::harness::{Harness, KILLED};
use crate::testkit::test_process::Kind;

pub(super) fn exit_code(harness: &Harness) -> Result<(), Fault> {
    for code in [0, 7, 255] {
        let mut test_process = harness.test_process(Kind::Exit { code })?;
        let mut watch = harness.watch(&test_process)?;
        watch.end_by(|| test_process.cue())?;
        let exit = harness.expect_exit(watch, ExitStatus::Code(code))?;
        if exit.pid() != test_process.pid() {
            return Err(Fault::WrongReport(format!(
                "{exit}; expected pid {}",
                test_process.pid()
            )));
        }
    }
    Ok(())
}

pub(super) fn signal(harness: &Harness) -> Result<(), Fault> {
    for (signal, number) in [(Signal::KILL, 9), (Signal::TERM, 15)] {
        let test_process = harness.test_process(Kind::Sleep)?;
        let mut watch = harness.watch(&test_process)?;
        watch.end_by(|| test_process.signal(signal))?;
        let status = ExitStatus::Signal {
            signal: number,
            core: false,
        };
        harness.expect_exit(watch, status)?;
    }
    Ok(())
}

pub(super) fn many_at_once(harness: &Harness) -> Result<(), Fault> {
    let control = harness.test_process(Kind::Sleep)?;
    let control_watch = harness.watch(&control)?;
    let mut watched = Vec::new();
    for _ in 0..200 {
        let test_process = harness.test_process(Kind::Sleep)?;
        watched.push((harness.watch(&test_process)?, test_process));
    }
    for (watch, test_process) in &mut watched {
        watch.end_by(|| test_process.kill())?;
    }
    for (watch, _test_process) in watched {
        harness.expect_exit(watch, KILLED)?;
    }
    harness.expect_alive(&control_watch, "200 other processes died")
}

pub(super) fn zombie(harness: &Harness) -> Result<(), Fault> {
    let mut test_process = harness.test_process(Kind::Sleep)?;
    let mut watch = harness.watch(&test_process)?;
    watch.end_by(|| test_process.kill())?;
    harness.expect_exit(watch, KILLED)?;
    // It can still be reaped, so the exit was reported before that.
    let reaped = test_process.wait()?;
    if reaped == KILLED {
        return Ok(());
    }
    Err(Fault::WrongReport(format!(
        "killed, but reaped as {reaped:?}"
    )))
}
