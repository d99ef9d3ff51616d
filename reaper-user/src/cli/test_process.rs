//! `reaperd test_process`: what a test process does once it runs. See [`crate::testkit::test_process`] for the
//! other side.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Signal, getppid, kill_process};

use super::Failure;
use super::exit_code;
use crate::testkit::test_process::Kind;

/// Runs this process as a test process; answers with its exit code.
pub(super) fn run(kind: Kind) -> Result<u8, Failure> {
    act(kind).map_err(|error| Failure {
        code: exit_code::FAILED,
        message: format!("test process: {error}"),
        remedy: "reaperd demo".to_owned(),
    })
}

fn act(kind: Kind) -> io::Result<u8> {
    match kind {
        Kind::Exit { code } => {
            ready()?;
            cue()?;
            Ok(code)
        }
        Kind::Sleep => {
            ready()?;
            cue()?;
            Ok(0)
        }
        Kind::SelfExec => {
            ready()?;
            cue()?;
            Err(become_sleeper()?)
        }
        Kind::WorkerExec => {
            ready()?;
            let worker = thread::spawn(|| {
                cue()?;
                Err(become_sleeper()?)
            });
            worker
                .join()
                .unwrap_or_else(|_panic| Err(io::Error::other("the worker panicked")))
        }
        Kind::LeaderFirst => leader_first(),
        Kind::ParentFirst => {
            // It shares our pipes and speaks for itself.
            myself(&["test-process", "orphan"])?.spawn()?.wait()?;
            Ok(0)
        }
        Kind::Orphan => orphan(),
        Kind::Traced => tracer(),
        Kind::Tracee => {
            ready()?;
            loop {
                thread::park();
            }
        }
        Kind::ThreadChurn { threads } => churn(threads),
        Kind::Hog { megabytes } => {
            // Written, page by page, so that it is really there.
            let memory = vec![0xa5_u8; usize::try_from(megabytes).unwrap_or(0) << 20];
            ready()?;
            cue()?;
            std::hint::black_box(memory);
            Ok(0)
        }
    }
}

#[cfg(target_os = "linux")]
fn leader_first() -> io::Result<u8> {
    use crate::sys::test_process::{exit_group, exit_thread};

    let leader = std::process::id();
    thread::spawn(|| {
        loop {
            thread::park();
        }
    });
    ready()?;
    cue()?;
    thread::spawn(move || {
        let told = wait_for_leader(leader)
            .and_then(|()| say("leader left"))
            .and_then(|()| cue());
        exit_group(if told.is_ok() { 7 } else { 1 })
    });
    exit_thread()
}

/// Until the kernel shows the leader as finished.
#[cfg(target_os = "linux")]
fn wait_for_leader(leader: u32) -> io::Result<()> {
    wait_for_state(&format!("/proc/self/task/{leader}/stat"), &['Z', 'X'])
}

/// Until the stat line of this path shows one of these states.
#[cfg(target_os = "linux")]
fn wait_for_state(path: &str, states: &[char]) -> io::Result<()> {
    loop {
        let stat = std::fs::read_to_string(path)?;
        // The name may contain anything, so the state is what follows its last parenthesis.
        if stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(states))
        {
            return Ok(());
        }
        thread::yield_now();
    }
}

/// The parent and tracer of the test process proper. It waits for nobody.
#[cfg(target_os = "linux")]
fn tracer() -> io::Result<u8> {
    use crate::sys::test_process::{stop_traced, trace};

    let child = myself(&["test-process", "tracee"])?.spawn()?;
    let pid = reaper_registry::Pid::try_from(child.id()).map_err(io::Error::other)?;
    trace(pid)?;
    cue()?;
    stop_traced(pid)?;
    wait_for_state(&format!("/proc/{pid}/stat"), &['t', 'T'])?;
    say("traced")?;
    cue()?;
    Ok(0)
}

#[cfg(not(target_os = "linux"))]
fn tracer() -> io::Result<u8> {
    Err(io::Error::other("tracing is different on every system"))
}

#[cfg(not(target_os = "linux"))]
fn leader_first() -> io::Result<u8> {
    Err(io::Error::other(
        "a process without its main thread exists on Linux alone",
    ))
}

fn orphan() -> io::Result<u8> {
    let parent = getppid().ok_or_else(|| io::Error::other("no parent to lose"))?;
    ready()?;
    cue()?;
    kill_process(parent, Signal::KILL)?;
    while getppid() == Some(parent) {
        thread::yield_now();
    }
    say("orphaned")?;
    cue()?;
    Ok(0)
}

/// So many threads make a churn, whoever waits for one.
const CHURNED: u32 = 2_000;

fn churn(threads: u16) -> io::Result<u8> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut ended = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                thread::scope(|batch| {
                    for _ in 0..threads {
                        batch.spawn(|| ());
                    }
                });
                let before = ended;
                ended = ended.saturating_add(threads.into());
                if before < CHURNED && ended >= CHURNED {
                    // Nobody has to listen.
                    say("churned").unwrap_or_default();
                }
            }
        });
        let cued = ready().and_then(|()| cue());
        stop.store(true, Ordering::Relaxed);
        cued.map(|()| 0)
    })
}

/// Replaces this process by a sleeper; answers only with why that failed.
fn become_sleeper() -> io::Result<io::Error> {
    Ok(myself(&["test-process", "sleep"])?.exec())
}

fn myself(arguments: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(command)
}

fn ready() -> io::Result<()> {
    say(&format!("ready {}", std::process::id()))
}

fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Waits for one byte, or for the end of input. Unbuffered: what follows it may be for the program
/// that this one becomes.
fn cue() -> io::Result<()> {
    loop {
        match rustix::io::read(io::stdin().as_fd(), &mut [0_u8; 1]) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
