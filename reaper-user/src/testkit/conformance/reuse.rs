//! A number that goes to another process: forced, because by chance it happens once in 32,768.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::Fault;
use super::harness::{Harness, KILLED, Watching};
use crate::clock;
use crate::sys::process_table;
use crate::testkit::test_process::{Kind, TestProcess};

/// Of the clock that start times are told in.
const TICK: Duration = Duration::from_millis(10);
/// Lives of one number that have to be as the case wants them.
const WANTED: usize = 3;
/// Tries for these: an emulated machine needs longer than a tick for most lives.
const TRIES: usize = 12;

pub(super) fn across_ticks(harness: &Harness) -> Result<(), Fault> {
    play(harness, 2 * TICK, false)
}

pub(super) fn within_a_tick(harness: &Harness) -> Result<(), Fault> {
    play(harness, Duration::ZERO, true)
}

/// Who has the number of a dead process.
struct Successor {
    watching: Watching,
    test_process: TestProcess,
    /// Both lives began within one tick.
    same_tick: bool,
}

fn play(harness: &Harness, pause: Duration, same_tick: bool) -> Result<(), Fault> {
    let mut successors = Vec::new();
    let mut as_wanted = 0;
    for _ in 0..TRIES {
        if as_wanted == WANTED {
            break;
        }
        if let Some(successor) = reused(harness, pause)? {
            as_wanted += usize::from(successor.same_tick == same_tick);
            successors.push(successor);
        }
    }
    let all = successors.iter().map(|successor| &successor.watching);
    harness.all_live(all, "it has the number of a dead process")?;
    let used_again = successors.len();
    for mut successor in successors {
        successor.watching.order(|| successor.test_process.kill())?;
        harness.end_of(successor.watching, KILLED)?;
    }
    if as_wanted > 0 {
        return Ok(());
    }
    // What was seen was right, but it is not what the case is about.
    let when = if same_tick { "within" } else { "after" };
    Err(Fault::Impossible(format!(
        "none of {TRIES} numbers was used again {when} the tick of its first life: {used_again} were at \
         another time, unrelated processes took the rest"
    )))
}

/// One life, its end, and another life under the same number, unless a unrelated process gets it first.
fn reused(harness: &Harness, pause: Duration) -> Result<Option<Successor>, Fault> {
    let table = process_table::of_this_system();
    await_tick();
    let mut first = harness.test_process(Kind::Sleep)?;
    let mut watching = harness.watch(&first)?;
    let began = table.stat(first.pid())?.start_time;
    watching.order(|| first.kill())?;
    // Reaped, so that the number is free.
    first.wait()?;
    // No event marks the next tick.
    std::thread::sleep(pause);
    let test_process = match harness.test_process_at(first.pid(), Kind::Sleep) {
        Ok(test_process) => test_process,
        // The next round has another number.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            harness.end_of(watching, KILLED)?;
            return Ok(None);
        }
        Err(error) if cannot_choose(&error) => {
            let reason = format!("no process under a chosen pid here: {error}");
            return Err(Fault::Impossible(reason));
        }
        Err(error) => return Err(error.into()),
    };
    let same_tick = table.stat(test_process.pid())?.start_time == began;
    let successor = harness.watch(&test_process)?;
    harness.end_of(watching, KILLED)?;
    Ok(Some(Successor {
        watching: successor,
        test_process,
        same_tick,
    }))
}

/// Returns just behind the beginning of a tick, so that most of it is left for two lives.
fn await_tick() {
    let tick = || u128::from(clock::now().boot.as_nanos()) / TICK.as_nanos();
    let before = tick();
    while tick() == before {
        std::thread::yield_now();
    }
}

/// Whether this is the word of a system on which no number can be chosen, or not by us: no
/// privilege, no `clone3`, or one that does not know of `set_tid` (before Linux 5.5).
fn cannot_choose(error: &io::Error) -> bool {
    let of_the_kernel = matches!(
        Errno::from_io_error(error),
        Some(Errno::PERM | Errno::NOSYS | Errno::INVAL | Errno::TOOBIG)
    );
    of_the_kernel || error.kind() == io::ErrorKind::Unsupported
}
