//! What happens around the moment at which a watch begins.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::Fault;
use super::harness::{Harness, KILLED, Watching};
use crate::clock::Deadline;
use crate::testkit::test_process::{Kind, TestProcess};

/// Times that the pauses are doubled: at last they are longer than a turn on a single processor.
const SLOWEST: u32 = 6;

pub(super) fn ended_before(harness: &Harness) -> Result<(), Fault> {
    let mut reaped = harness.test_process(Kind::Sleep)?;
    reaped.kill()?;
    reaped.wait()?;
    refused(harness, &reaped, "reaped")?;

    // Its number is taken until somebody reaps it, but every thread has ended. The probe tells of
    // the end before that, so that alone is not waited for.
    let mut zombie = harness.test_process(Kind::Sleep)?;
    let mut first = harness.watch(&zombie)?;
    first.order(|| zombie.kill())?;
    harness.end_of(first, KILLED)?;
    zombie.wait_unreaped()?;
    refused(harness, &zombie, "a zombie")
}

fn refused(harness: &Harness, test_process: &TestProcess, what: &str) -> Result<(), Fault> {
    match harness.try_watch(test_process.pid()) {
        None => Ok(()),
        Some(_watching) => Err(Fault::Untrue(format!("{what} was accepted as living"))),
    }
}

/// Kills that hit every stage of a registration: before it, between its steps, after it. How long a
/// death and a registration take is the machine's affair, so the pauses grow until both have won.
pub(super) fn ends_during(harness: &Harness) -> Result<(), Fault> {
    let (mut refused, mut overtaken) = (0, 0);
    for slower in 0..SLOWEST {
        let mut watched = Vec::new();
        for round in 0..150 {
            let race = race(harness, round, 1 << slower)?;
            match race.watching {
                Some(watching) => {
                    overtaken += usize::from(race.ordered);
                    // Unreaped until its end is seen.
                    watched.push((watching, race.test_process));
                }
                None if race.ordered => refused += 1,
                None => return Err(Fault::FalseDeath("refused before it was killed".into())),
            }
        }
        for (watching, _zombie) in watched {
            harness.seen_end(watching)?;
        }
        if refused > 0 && overtaken > 0 {
            return Ok(());
        }
    }
    // Not one end fell near a registration, so nothing was shown.
    Err(Fault::Staging(std::io::Error::other(format!(
        "{refused} were refused, {overtaken} accepted with the kill on its way: both kinds are needed"
    ))))
}

/// A registration and a kill that set out at the same time.
struct Race {
    test_process: TestProcess,
    watching: Option<Watching>,
    /// The kill had been ordered when the registration was answered.
    ordered: bool,
}

fn race(harness: &Harness, round: u64, slower: u64) -> Result<Race, Fault> {
    let mut test_process = harness.test_process(Kind::Sleep)?;
    let pid = test_process.pid();
    let start = Barrier::new(2);
    let is_ordered = AtomicBool::new(false);
    let (done, watching, ordered) = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            start.wait();
            // Some microseconds more each time, up to what a registration takes.
            pause(Duration::from_micros(slower * 2 * (round % 50)));
            is_ordered.store(true, Ordering::SeqCst);
            test_process.kill()
        });
        start.wait();
        // And the other way round: what takes longer is mostly the death.
        pause(Duration::from_micros(slower * 4 * (round % 75)));
        let watching = harness.try_watch(pid);
        let ordered = is_ordered.load(Ordering::SeqCst);
        (killer.join(), watching, ordered)
    });
    done.map_err(|_panic| std::io::Error::other("the killer panicked"))??;
    Ok(Race {
        test_process,
        watching,
        ordered,
    })
}

/// Shorter than a sleep can be.
fn pause(length: Duration) {
    let pause = Deadline::after(length);
    while !pause.has_passed() {
        std::hint::spin_loop();
    }
}

pub(super) fn several_watches(harness: &Harness) -> Result<(), Fault> {
    let mut test_process = harness.test_process(Kind::Sleep)?;
    let watches = [
        harness.watch(&test_process)?,
        harness.watch(&test_process)?,
        harness.watch(&test_process)?,
    ];
    test_process.kill()?;
    for watching in watches {
        harness.end_of(watching, KILLED)?;
    }
    Ok(())
}
