//! Reuse of a pid by another process. The reuse is forced, because by chance a pid is reused once in
//! 32,768 forks.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::Fault;
use super::harness::{Harness, KILLED, PendingWatch};
use crate::clock;
use crate::sys::process_table;
use crate::testkit::test_process::{Kind, TestProcess};

/// The resolution of start times.
const TICK: Duration = Duration::from_millis(10);
/// How many reuses with the wanted timing a case needs.
const WANTED: usize = 3;
/// How often a reuse is tried. On an emulated machine most processes live for more than a tick.
const TRIES: usize = 12;

pub(super) fn across_ticks(harness: &Harness) -> Result<(), Fault> {
    run(harness, 2 * TICK, false)
}

pub(super) fn within_a_tick(harness: &Harness) -> Result<(), Fault> {
    run(harness, Duration::ZERO, true)
}

/// A process with the pid of a dead process.
struct Successor {
    watch: PendingWatch,
    test_process: TestProcess,
    /// Whether both processes started within the same tick.
    same_tick: bool,
}

fn run(harness: &Harness, pause: Duration, same_tick: bool) -> Result<(), Fault> {
    let mut successors = Vec::new();
    let mut as_wanted = 0;
    for _ in 0..TRIES {
        if as_wanted == WANTED {
            break;
        }
        if let Some(successor) = reuse_pid(harness, pause)? {
            as_wanted += usize::from(successor.same_tick == same_tick);
            successors.push(successor);
        }
    }
    let all = successors.iter().map(|successor| &successor.watch);
    harness.expect_all_alive(all, "it has the pid of a dead process")?;
    let reused = successors.len();
    for mut successor in successors {
        successor.watch.end_by(|| successor.test_process.kill())?;
        harness.expect_exit(successor.watch, KILLED)?;
    }
    if as_wanted > 0 {
        return Ok(());
    }
    // All reports were right, but none was about the tested timing.
    let when = if same_tick { "within" } else { "after" };
    Err(Fault::Unsupported(format!(
        "of {TRIES} pids none was reused {when} the clock tick in which its first process started: \
         {reused} were reused at another time, unrelated processes took the others"
    )))
}

/// Starts and kills a process, then starts another one with the same pid. Returns `None` if an unrelated
/// process takes the pid first.
fn reuse_pid(harness: &Harness, pause: Duration) -> Result<Option<Successor>, Fault> {
    let table = process_table::of_this_system();
    wait_for_tick();
    let mut first = harness.test_process(Kind::Sleep)?;
    let mut first_watch = harness.watch(&first)?;
    let first_start = table.stat(first.pid())?.start_time;
    first_watch.end_by(|| first.kill())?;
    // Reaping frees the pid.
    first.wait()?;
    // No event marks the next tick.
    std::thread::sleep(pause);
    let test_process = match harness.test_process_at(first.pid(), Kind::Sleep) {
        Ok(test_process) => test_process,
        // The next round uses another pid.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            harness.expect_exit(first_watch, KILLED)?;
            return Ok(None);
        }
        Err(error) if cannot_choose_pid(&error) => {
            let reason = format!("cannot start a process with a chosen pid here: {error}");
            return Err(Fault::Unsupported(reason));
        }
        Err(error) => return Err(error.into()),
    };
    let same_tick = table.stat(test_process.pid())?.start_time == first_start;
    let watch = harness.watch(&test_process)?;
    harness.expect_exit(first_watch, KILLED)?;
    Ok(Some(Successor {
        watch,
        test_process,
        same_tick,
    }))
}

/// Waits for the start of a tick, so that most of it is left for two processes.
fn wait_for_tick() {
    let tick = || u128::from(clock::now().boot.as_nanos()) / TICK.as_nanos();
    let before = tick();
    while tick() == before {
        std::thread::yield_now();
    }
}

/// Returns whether the error means that no pid can be chosen on this system or by this user: no
/// privilege, no `clone3`, or a `clone3` without `set_tid` (before Linux 5.5).
fn cannot_choose_pid(error: &io::Error) -> bool {
    let from_kernel = matches!(
        Errno::from_io_error(error),
        Some(Errno::PERM | Errno::NOSYS | Errno::INVAL | Errno::TOOBIG)
    );
    from_kernel || error.kind() == io::ErrorKind::Unsupported
}
