//! How processes end.

use reaper_registry::ExitStatus;
use rustix::process::Signal;

use super::Fault;
use super::harness::{Harness, KILLED};
use crate::testkit::test_process::Kind;

pub(super) fn exit_code(harness: &Harness) -> Result<(), Fault> {
    for code in [0, 7, 255] {
        let mut test_process = harness.test_process(Kind::Exit { code })?;
        let mut watching = harness.watch(&test_process)?;
        watching.order(|| test_process.cue())?;
        let exit = harness.end_of(watching, ExitStatus::Code(code))?;
        if exit.pid() != test_process.pid() {
            return Err(Fault::Untrue(format!(
                "{exit}, and it was {}",
                test_process.pid()
            )));
        }
    }
    Ok(())
}

pub(super) fn signal(harness: &Harness) -> Result<(), Fault> {
    for (signal, number) in [(Signal::KILL, 9), (Signal::TERM, 15)] {
        let test_process = harness.test_process(Kind::Sleep)?;
        let mut watching = harness.watch(&test_process)?;
        watching.order(|| test_process.signal(signal))?;
        let status = ExitStatus::Signal {
            signal: number,
            core: false,
        };
        harness.end_of(watching, status)?;
    }
    Ok(())
}

pub(super) fn many_at_once(harness: &Harness) -> Result<(), Fault> {
    let control = harness.test_process(Kind::Sleep)?;
    let living = harness.watch(&control)?;
    let mut watched = Vec::new();
    for _ in 0..200 {
        let test_process = harness.test_process(Kind::Sleep)?;
        watched.push((harness.watch(&test_process)?, test_process));
    }
    for (watching, test_process) in &mut watched {
        watching.order(|| test_process.kill())?;
    }
    for (watching, _test_process) in watched {
        harness.end_of(watching, KILLED)?;
    }
    harness.lives(&living, "it was beside two hundred that died")
}

pub(super) fn zombie(harness: &Harness) -> Result<(), Fault> {
    let mut test_process = harness.test_process(Kind::Sleep)?;
    let mut watching = harness.watch(&test_process)?;
    watching.order(|| test_process.kill())?;
    harness.end_of(watching, KILLED)?;
    // It can still be reaped, so it was told of without that.
    let reaped = test_process.wait()?;
    if reaped == KILLED {
        return Ok(());
    }
    Err(Fault::Untrue(format!("killed, and reaped as {reaped:?}")))
}
