//! What the forked processes do.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::set_parent_process_death_signal;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};

use super::commands::reply;
use super::{CUE, Kind, LAST_CUE, traced};
use crate::sys::{Forker, end_process, end_thread, sleep_for_ever, wait_for};

/// The code of [`Kind::LeaderFirst`].
const LAST_CODE: u8 = 7;
/// How long each thread of [`Kind::Churn`] runs: long enough for other threads to be scheduled.
const THREAD_RUNS_FOR: Duration = Duration::from_millis(1);

/// Runs the process. It ends when this returns.
pub(super) fn run(kind: Kind, fork_server: Pid) {
    // It is killed with the fork server. If that has ended already, it ends here.
    let is_set = set_parent_process_death_signal(Some(Signal::KILL));
    if is_set.is_ok() && getppid() == Some(fork_server) {
        // After a failure the reply is missing, which the caller notices.
        run_as(kind, fork_server).unwrap_or_default();
    }
}

fn run_as(kind: Kind, fork_server: Pid) -> io::Result<()> {
    let own_pid = [getpid().as_raw_nonzero()];
    match kind {
        Kind::Idle { megabytes } => {
            // Written, so that every page is allocated.
            let memory = vec![0xa5_u8; megabytes << 20];
            reply(&own_pid)?;
            std::hint::black_box(&memory);
            sleep_for_ever()
        }
        Kind::Threads { number } => {
            for _ in 0..number {
                beside(|| sleep_for_ever())?;
            }
            reply(&own_pid)?;
            wait_for(CUE);
            end_thread()
        }
        Kind::Exit { code } => {
            reply(&own_pid)?;
            wait_for(CUE);
            end_process(code)
        }
        Kind::Abort => {
            reply(&own_pid)?;
            wait_for(CUE);
            std::process::abort()
        }
        Kind::Fault => {
            reply(&own_pid)?;
            wait_for(CUE);
            // The first one is caught by the runtime's handler, which detects stack overflows.
            loop {
                kill_process(getpid(), Signal::SEGV)?;
            }
        }
        Kind::LeaderFirst => {
            beside(|| {
                wait_for(LAST_CUE);
                end_process(LAST_CODE)
            })?;
            reply(&own_pid)?;
            wait_for(CUE);
            end_thread()
        }
        Kind::ParentFirst => {
            let parent = getpid();
            let child = Forker::of_this_process()?
                .fork(|| orphan(parent, fork_server).unwrap_or_default())?;
            reply(&(own_pid[0], child))?;
            wait_for(CUE);
            end_process(0)
        }
        Kind::WorkerExec => {
            beside(|| become_program(Command::new("sleep").arg("600")))?;
            reply(&own_pid)?;
            sleep_for_ever()
        }
        Kind::WorkerExecExit { code } => {
            beside(move || {
                become_program(Command::new("sh").args(["-c", &format!("exit {code}")]));
            })?;
            reply(&own_pid)?;
            sleep_for_ever()
        }
        Kind::Traced { threads } => traced::child(threads),
        Kind::TracedInNamespace { threads } => traced::in_namespace(threads),
        Kind::Churn => {
            reply(&own_pid)?;
            churn()
        }
        Kind::LeaderlessChurn => {
            beside(|| churn().unwrap_or_default())?;
            reply(&own_pid)?;
            end_thread()
        }
    }
}

fn churn() -> io::Result<()> {
    loop {
        beside(|| thread::sleep(THREAD_RUNS_FOR))?
            .join()
            .map_err(|_panic| io::Error::other("a thread panicked"))?;
    }
}

/// The child of [`Kind::ParentFirst`]. It waits for the death of its parent. From then on it is killed
/// with the fork server, which adopts it.
fn orphan(parent: Pid, fork_server: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(CUE))?;
    if getppid() == Some(parent) {
        wait_for(CUE);
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() == Some(fork_server) {
        sleep_for_ever();
    }
    Ok(())
}

fn become_program(program: &mut Command) {
    wait_for(CUE);
    // This signal is set per thread, and this thread is about to become the process.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_ok() {
        let refused = program.exec();
        drop(refused);
    }
    end_process(127)
}

pub(super) fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().stack_size(64 << 10).spawn(work)
}
