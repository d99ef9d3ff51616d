//! A number that goes to another process: forced, because by chance it happens once in 32,768.

use std::io;
use std::time::Duration;

use super::Fault;
use super::stage::{KILLED, Stage};
use crate::victims::Kind;

/// Two ticks of the clock that start times are told in.
const TWO_TICKS: Duration = Duration::from_millis(20);

pub(super) fn across_ticks(stage: &Stage) -> Result<(), Fault> {
    (0..5).try_for_each(|_| reused(stage, TWO_TICKS))
}

pub(super) fn within_a_tick(stage: &Stage) -> Result<(), Fault> {
    (0..10).try_for_each(|_| reused(stage, Duration::ZERO))
}

/// One life, its end, and another life under the same number.
fn reused(stage: &Stage, pause: Duration) -> Result<(), Fault> {
    let mut first = stage.victim(Kind::Sleep)?;
    let mut watching = stage.watch(&first)?;
    watching.order(|| first.kill())?;
    // Reaped, so that the number is free.
    first.wait()?;
    // No event marks the next tick.
    std::thread::sleep(pause);
    let mut successor = match stage.victim_at(first.pid(), Kind::Sleep) {
        Ok(victim) => victim,
        // It went to a stranger first, which proves nothing; the next round has another number.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => {
            let reason = format!("no process under a chosen pid here: {error}");
            return Err(Fault::Impossible(reason));
        }
    };
    let mut heir = stage.watch(&successor)?;
    stage.end_of(watching, KILLED)?;
    stage.lives(&heir, "it has the number of a dead process")?;
    heir.order(|| successor.kill())?;
    stage.end_of(heir, KILLED).map(drop)
}
