//! What happens around the moment at which a watch begins.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::Fault;
use super::stage::{KILLED, Stage};
use crate::clock::Deadline;
use crate::victims::{Kind, Victim};

pub(super) fn ended_before(stage: &Stage) -> Result<(), Fault> {
    let mut reaped = stage.victim(Kind::Sleep)?;
    reaped.kill()?;
    reaped.wait()?;
    refused(stage, &reaped, "reaped")?;

    // Its number is taken until somebody reaps it, but every thread has ended. The probe tells of
    // the end before that, so that alone is not waited for.
    let mut zombie = stage.victim(Kind::Sleep)?;
    let mut first = stage.watch(&zombie)?;
    first.order(|| zombie.kill())?;
    stage.end_of(first, KILLED)?;
    zombie.wait_unreaped()?;
    refused(stage, &zombie, "a zombie")
}

fn refused(stage: &Stage, victim: &Victim, what: &str) -> Result<(), Fault> {
    match stage.try_watch(victim.pid()) {
        None => Ok(()),
        Some(_watching) => Err(Fault::Untrue(format!("{what} was accepted as living"))),
    }
}

/// Kills that hit every stage of a registration: before it, between its steps, after it.
pub(super) fn ends_during(stage: &Stage) -> Result<(), Fault> {
    let mut watched = Vec::new();
    for round in 0..150 {
        let mut victim = stage.victim(Kind::Sleep)?;
        let pid = victim.pid();
        let start = Barrier::new(2);
        let (killed, watching) = thread::scope(|scope| {
            let killer = scope.spawn(|| {
                start.wait();
                // Some microseconds more each time, up to what a registration takes.
                pause(Duration::from_micros(2 * (round % 50)));
                victim.kill()
            });
            start.wait();
            // And the other way round: what takes longer is mostly the death.
            pause(Duration::from_micros(4 * (round % 75)));
            let watching = stage.try_watch(pid);
            (killer.join(), watching)
        });
        killed.map_err(|_panic| std::io::Error::other("the killer panicked"))??;
        // Who is refused had ended before; nobody may be refused and live, and this one was killed.
        watched.extend(watching.map(|watching| (watching, victim)));
    }
    for (watching, _zombie) in watched {
        stage.seen_end(watching)?;
    }
    Ok(())
}

/// Shorter than a sleep can be.
fn pause(length: Duration) {
    let pause = Deadline::after(length);
    while !pause.has_passed() {
        std::hint::spin_loop();
    }
}

pub(super) fn several_watches(stage: &Stage) -> Result<(), Fault> {
    let mut victim = stage.victim(Kind::Sleep)?;
    let watches = [
        stage.watch(&victim)?,
        stage.watch(&victim)?,
        stage.watch(&victim)?,
    ];
    victim.kill()?;
    for watching in watches {
        stage.end_of(watching, KILLED)?;
    }
    Ok(())
}
