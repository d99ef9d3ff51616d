//! Events around the moment at which a watch starts.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::Fault;
use super::harness::{Harness, KILLED, PendingWatch};
use crate::clock::Deadline;
use crate::testkit::test_process::{Kind, TestProcess};

/// How often the pauses are doubled. The longest exceed a time slice on a single processor.
const DOUBLINGS: u32 = 6;

pub(super) fn ended_before(harness: &Harness) -> Result<(), Fault> {
    let mut reaped = harness.test_process(Kind::Sleep)?;
    reaped.kill()?;
    reaped.wait()?;
    expect_refused(harness, &reaped, "a reaped process")?;

    // A zombie keeps its pid, but all its threads have ended. The probe reports the exit before that, so
    // its report alone is not enough to wait for.
    let mut zombie = harness.test_process(Kind::Sleep)?;
    let mut first = harness.watch(&zombie)?;
    first.end_by(|| zombie.kill())?;
    harness.expect_exit(first, KILLED)?;
    zombie.wait_unreaped()?;
    expect_refused(harness, &zombie, "a zombie")
}

fn expect_refused(harness: &Harness, test_process: &TestProcess, what: &str) -> Result<(), Fault> {
    match harness.try_watch(test_process.pid()) {
        None => Ok(()),
        Some(_watch) => Err(Fault::WrongReport(format!("{what} was accepted as alive"))),
    }
}

/// Kills processes at every stage of a registration: before it, between its steps, and after it. How long
/// a death and a registration take depends on the machine, so the pauses grow until each was first at
/// least once.
pub(super) fn ends_during(harness: &Harness) -> Result<(), Fault> {
    let (mut refused, mut accepted_late) = (0, 0);
    for doubling in 0..DOUBLINGS {
        let mut watched = Vec::new();
        for round in 0..150 {
            let race = race(harness, round, 1 << doubling)?;
            match race.watch {
                Some(watch) => {
                    accepted_late += usize::from(race.killed_before_reply);
                    // Stays unreaped until its exit is reported.
                    watched.push((watch, race.test_process));
                }
                None if race.killed_before_reply => refused += 1,
                None => return Err(Fault::FalseDeath("refused before it was killed".into())),
            }
        }
        for (watch, _zombie) in watched {
            harness.wait_for_exit(watch)?;
        }
        if refused > 0 && accepted_late > 0 {
            return Ok(());
        }
    }
    // No death was close to a registration, so nothing was tested.
    Err(Fault::Setup(std::io::Error::other(format!(
        "{refused} processes were refused and {accepted_late} accepted after the kill began: the case \
         needs both"
    ))))
}

/// The result of a registration and a kill that started at the same time.
struct Race {
    test_process: TestProcess,
    watch: Option<PendingWatch>,
    /// Whether the kill began before the registration returned.
    killed_before_reply: bool,
}

fn race(harness: &Harness, round: u64, factor: u64) -> Result<Race, Fault> {
    let mut test_process = harness.test_process(Kind::Sleep)?;
    let pid = test_process.pid();
    let start = Barrier::new(2);
    let kill_began = AtomicBool::new(false);
    let (killed, watch, killed_before_reply) = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            start.wait();
            // Some microseconds more in each round, up to the duration of a registration.
            pause(Duration::from_micros(factor * 2 * (round % 50)));
            kill_began.store(true, Ordering::SeqCst);
            test_process.kill()
        });
        start.wait();
        // Longer pauses on this side, because a death usually takes longer than a registration.
        pause(Duration::from_micros(factor * 4 * (round % 75)));
        let watch = harness.try_watch(pid);
        let killed_before_reply = kill_began.load(Ordering::SeqCst);
        (killer.join(), watch, killed_before_reply)
    });
    killed.map_err(|_panic| std::io::Error::other("the killer panicked"))??;
    Ok(Race {
        test_process,
        watch,
        killed_before_reply,
    })
}

/// Spins, because a sleep cannot be this short.
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
    for watch in watches {
        harness.expect_exit(watch, KILLED)?;
    }
    Ok(())
}
