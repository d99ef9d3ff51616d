//! A number that goes to another process: forced, because by chance it happens once in 32,768.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; the reason of a skip is printed"
)]

use std::io;
use std::time::Duration;

use reaper_registry::Pid;
use reaper_tests::daemon::reaperd;
use reaper_tests::expect::SKIP_MARK;
use reaper_tests::wait::{Deadline, eventually};
use reaper_user::victims::{Kind, Victim};

use crate::stage::{KILLED, Stage};

/// Two ticks of the clock that start times are told in.
const TWO_TICKS: Duration = Duration::from_millis(20);

pub(crate) fn across_ticks(stage: &Stage) {
    for _ in 0..5 {
        if !reused(stage, TWO_TICKS) {
            return;
        }
    }
}

pub(crate) fn within_a_tick(stage: &Stage) {
    for _ in 0..10 {
        if !reused(stage, Duration::ZERO) {
            return;
        }
    }
}

/// One life, its end, and another life under the same number. False where that cannot be had here.
fn reused(stage: &Stage, pause: Duration) -> bool {
    let mut first = Stage::victim(Kind::Sleep);
    let number = first.pid();
    let watching = stage.watch(&first);
    first.kill().unwrap();
    // Reaped, so that the number is free.
    first.wait().unwrap();
    let died = Deadline::after(pause);
    // No event marks the next tick.
    eventually("the clock has gone on", || died.has_passed());
    let mut successor = match take(number) {
        Ok(victim) => victim,
        // It went to a stranger first, which proves nothing; the next round has another number.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return true,
        Err(error) => {
            println!("{SKIP_MARK}no process under a chosen pid here: {error}");
            return false;
        }
    };
    let heir = stage.watch(&successor);
    stage.end_of(watching, KILLED);
    stage.lives(&heir, "it has the number of a dead process");
    successor.kill().unwrap();
    stage.end_of(heir, KILLED);
    true
}

/// A victim under this number. A stranger that has it for a moment is waited for.
fn take(number: Pid) -> io::Result<Victim> {
    let deadline = Deadline::after(Duration::from_secs(1));
    loop {
        match Victim::spawn_at_pid(reaperd(), Kind::Sleep, number) {
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && !deadline.has_passed() =>
            {
                std::thread::yield_now();
            }
            result => return result,
        }
    }
}
