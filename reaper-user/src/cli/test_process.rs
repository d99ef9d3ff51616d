//! `reaperd test-process`: what a test process does. The other end of its pipes is
//! [`crate::testkit::test_process`].

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Signal, getppid, kill_process};

use super::Failure;
use crate::testkit::test_process::Kind;

/// Runs this process as a test process and returns its exit code.
pub(super) fn run(kind: Kind) -> Result<u8, Failure> {
    run_kind(kind).map_err(|error| {
        Failure::new(
            format!("test process: {error}"),
            "reaperd test-process --help",
        )
    })
}

fn run_kind(kind: Kind) -> io::Result<u8> {
    match kind {
        Kind::Exit { code } => exit_on_cue(code),
        Kind::Sleep => exit_on_cue(0),
        Kind::SelfExec => {
            ready()?;
            wait_for_cue()?;
            Err(exec_sleeper()?)
        }
        Kind::WorkerExec => {
            ready()?;
            let worker = thread::spawn(|| {
                wait_for_cue()?;
                Err(exec_sleeper()?)
            });
            worker
                .join()
                .unwrap_or_else(|_panic| Err(io::Error::other("the worker panicked")))
        }
        Kind::LeaderFirst => leader_first(),
        Kind::ParentFirst => {
            // The child inherits the pipes and reports for itself.
            own_program(&["test-process", "orphan"])?.spawn()?.wait()?;
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
        Kind::Confined => confined(),
        Kind::Hog { megabytes } => {
            // Written, so that every page is allocated.
            let memory = vec![0xa5_u8; usize::try_from(megabytes).unwrap_or(0) << 20];
            let code = exit_on_cue(0);
            std::hint::black_box(memory);
            code
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
    wait_for_cue()?;
    thread::spawn(move || {
        let reported = wait_for_leader(leader)
            .and_then(|()| report("leader left"))
            .and_then(|()| wait_for_cue());
        exit_group(if reported.is_ok() { 7 } else { 1 })
    });
    exit_thread()
}

/// Waits until the leader thread has exited.
#[cfg(target_os = "linux")]
fn wait_for_leader(leader: u32) -> io::Result<()> {
    wait_for_state(&format!("/proc/self/task/{leader}/stat"), &['Z', 'X'])
}

/// Waits until the stat file shows one of these states.
#[cfg(target_os = "linux")]
fn wait_for_state(path: &str, states: &[char]) -> io::Result<()> {
    loop {
        let stat = std::fs::read_to_string(path)?;
        // The name may contain any character, so the state follows the last parenthesis.
        if stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(states))
        {
            return Ok(());
        }
        thread::yield_now();
    }
}

/// The parent and tracer of the actual test process. It never waits for its child.
#[cfg(target_os = "linux")]
fn tracer() -> io::Result<u8> {
    use crate::sys::test_process::{stop_traced, trace};

    let child = own_program(&["test-process", "tracee"])?.spawn()?;
    let pid = reaper_registry::Pid::try_from(child.id()).map_err(io::Error::other)?;
    trace(pid)?;
    wait_for_cue()?;
    stop_traced(pid)?;
    wait_for_state(&format!("/proc/{pid}/stat"), &['t', 'T'])?;
    report("traced")?;
    wait_for_cue().map(|()| 0)
}

#[cfg(not(target_os = "linux"))]
fn tracer() -> io::Result<u8> {
    Err(io::Error::other("tracing is implemented only on Linux"))
}

#[cfg(not(target_os = "linux"))]
fn leader_first() -> io::Result<u8> {
    Err(io::Error::other(
        "a process can outlive its main thread only on Linux",
    ))
}

#[cfg(target_os = "linux")]
fn confined() -> io::Result<u8> {
    use crate::daemon::api::listener::SocketAccess;
    use crate::daemon::sandbox::{
        Files, Role, restrict_calls, restrict_files, restrict_once_listening,
    };
    use crate::sys::test_process::{FORBIDDEN, FORBIDDEN_LATER, try_call};

    let folder = std::env::current_dir()?;
    let files = Files {
        socket_folder: Some(&folder),
        token_folders: &[],
    };
    report(&format!("landlock {}", restrict_files(&files)))?;
    let has_filter = restrict_calls(Role::Worker);
    report(if has_filter {
        "seccomp on"
    } else {
        "seccomp off"
    })?;
    for (name, path) in [("inside", "inside"), ("outside", "../outside")] {
        let written = std::fs::write(folder.join(path), "");
        let errno = written.map_or_else(|error| error.raw_os_error().unwrap_or(0), |()| 0);
        report(&format!("{name} {errno}"))?;
    }
    for (name, number, arguments) in FORBIDDEN {
        report(&format!("call {name} {}", try_call(number, arguments)))?;
    }
    for is_listening in [false, true] {
        if is_listening {
            restrict_once_listening(SocketAccess::Private);
        }
        for (name, number, arguments) in FORBIDDEN_LATER {
            let errno = try_call(number, arguments);
            report(&format!("later {is_listening} {name} {errno}"))?;
        }
    }
    // To the parent, which is outside. Signal 0 only asks whether it is there.
    let parent = getppid().ok_or_else(|| io::Error::other("the process has no parent"))?;
    let signalled = rustix::process::test_kill_process(parent);
    let errno = signalled.map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
    report(&format!("signal {errno}"))?;
    Ok(0)
}

#[cfg(not(target_os = "linux"))]
fn confined() -> io::Result<u8> {
    Err(io::Error::other("only Linux has this sandbox"))
}

fn orphan() -> io::Result<u8> {
    let parent = getppid().ok_or_else(|| io::Error::other("the process has no parent"))?;
    ready()?;
    wait_for_cue()?;
    kill_process(parent, Signal::KILL)?;
    while getppid() == Some(parent) {
        thread::yield_now();
    }
    report("orphaned")?;
    wait_for_cue().map(|()| 0)
}

/// After how many ended threads `churned` is reported.
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
                    // The pipe may be closed.
                    report("churned").unwrap_or_default();
                }
            }
        });
        let code = exit_on_cue(0);
        stop.store(true, Ordering::Relaxed);
        code
    })
}

/// Executes a sleeping test process. Returns only on failure, with the error.
fn exec_sleeper() -> io::Result<io::Error> {
    Ok(own_program(&["test-process", "sleep"])?.exec())
}

fn own_program(arguments: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(command)
}

/// Reports that the process is ready, and returns its exit code on cue.
fn exit_on_cue(code: u8) -> io::Result<u8> {
    ready()?;
    wait_for_cue()?;
    Ok(code)
}

fn ready() -> io::Result<()> {
    report(&format!("ready {}", std::process::id()))
}

fn report(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Waits for one byte or the end of the input. Unbuffered, because later bytes may be for a program
/// that this process executes.
fn wait_for_cue() -> io::Result<()> {
    loop {
        match rustix::io::read(io::stdin().as_fd(), &mut [0_u8; 1]) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
