//! How processes end.

use reaper_registry::ExitStatus;
use rustix::process::Signal;

use super::Fault;
use super::stage::{KILLED, Stage};
use crate::testkit::test_process::Kind;

pub(super) fn exit_code(stage: &Stage) -> Result<(), Fault> {
    for code in [0, 7, 255] {
        let mut victim = stage.victim(Kind::Exit { code })?;
        let mut watching = stage.watch(&victim)?;
        watching.order(|| victim.cue())?;
        let exit = stage.end_of(watching, ExitStatus::Code(code))?;
        if exit.pid != victim.pid() {
            return Err(Fault::Untrue(format!(
                "{exit}, and it was {}",
                victim.pid()
            )));
        }
    }
    Ok(())
}

pub(super) fn signal(stage: &Stage) -> Result<(), Fault> {
    for (signal, number) in [(Signal::KILL, 9), (Signal::TERM, 15)] {
        let victim = stage.victim(Kind::Sleep)?;
        let mut watching = stage.watch(&victim)?;
        watching.order(|| victim.signal(signal))?;
        let status = ExitStatus::Signal {
            signal: number,
            core: false,
        };
        stage.end_of(watching, status)?;
    }
    Ok(())
}

pub(super) fn many_at_once(stage: &Stage) -> Result<(), Fault> {
    let bystander = stage.victim(Kind::Sleep)?;
    let living = stage.watch(&bystander)?;
    let mut watched = Vec::new();
    for _ in 0..200 {
        let victim = stage.victim(Kind::Sleep)?;
        watched.push((stage.watch(&victim)?, victim));
    }
    for (watching, victim) in &mut watched {
        watching.order(|| victim.kill())?;
    }
    for (watching, _victim) in watched {
        stage.end_of(watching, KILLED)?;
    }
    stage.lives(&living, "it was beside two hundred that died")
}

pub(super) fn zombie(stage: &Stage) -> Result<(), Fault> {
    let mut victim = stage.victim(Kind::Sleep)?;
    let mut watching = stage.watch(&victim)?;
    watching.order(|| victim.kill())?;
    stage.end_of(watching, KILLED)?;
    // It can still be reaped, so it was told of without that.
    let reaped = victim.wait()?;
    if reaped == KILLED {
        return Ok(());
    }
    Err(Fault::Untrue(format!("killed, and reaped as {reaped:?}")))
}
