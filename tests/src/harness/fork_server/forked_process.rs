//! What a test process does, in the process that the fork server has forked for it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::set_parent_process_death_signal;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};

use super::commands::answer;
use super::{CUE, Kind, LAST_CUE, traced};
use crate::sys::{Forker, end_process, end_thread, sleep_for_ever, wait_for};

/// The code of [`Kind::LeaderFirst`].
const LAST_CODE: u8 = 7;
/// How long each thread of [`Kind::Churn`] lives: enough for others to get a turn.
const CHURNED_FOR: Duration = Duration::from_millis(1);

/// Lives as its kind does. That it returns is the end of the process as well.
pub(super) fn live(kind: Kind, fork_server: Pid) {
    // Dies with the fork server, which may have ended in between; then nobody would end this one.
    let with_it = set_parent_process_death_signal(Some(Signal::KILL));
    if with_it.is_ok() && getppid() == Some(fork_server) {
        // What fails is missed by whoever waits for the answer.
        live_as(kind, fork_server).unwrap_or_default();
    }
}

fn live_as(kind: Kind, fork_server: Pid) -> io::Result<()> {
    let own_pid = getpid().as_raw_nonzero().to_string();
    match kind {
        Kind::Idle { megabytes } => {
            // Written, page by page, so that it is really there.
            let memory = vec![0xa5_u8; megabytes << 20];
            answer(&own_pid)?;
            std::hint::black_box(&memory);
            sleep_for_ever()
        }
        Kind::Threads { number } => {
            for _ in 0..number {
                beside(|| sleep_for_ever())?;
            }
            answer(&own_pid)?;
            wait_for(CUE);
            end_thread()
        }
        Kind::Exit { code } => {
            answer(&own_pid)?;
            wait_for(CUE);
            end_process(code)
        }
        Kind::Abort => {
            answer(&own_pid)?;
            wait_for(CUE);
            std::process::abort()
        }
        Kind::Fault => {
            answer(&own_pid)?;
            wait_for(CUE);
            // The first one is taken by the handler with which the runtime tells of overflows.
            loop {
                kill_process(getpid(), Signal::SEGV)?;
            }
        }
        Kind::LeaderFirst => {
            beside(|| {
                wait_for(LAST_CUE);
                end_process(LAST_CODE)
            })?;
            answer(&own_pid)?;
            wait_for(CUE);
            end_thread()
        }
        Kind::ParentFirst => {
            let parent = getpid();
            let child = Forker::of_this_process()?
                .fork(|| orphan(parent, fork_server).unwrap_or_default())?;
            answer(&format!("{own_pid} {child}"))?;
            wait_for(CUE);
            end_process(0)
        }
        Kind::WorkerExec => {
            beside(|| become_program(Command::new("sleep").arg("600")))?;
            answer(&own_pid)?;
            sleep_for_ever()
        }
        Kind::WorkerExecExit { code } => {
            beside(move || {
                become_program(Command::new("sh").args(["-c", &format!("exit {code}")]));
            })?;
            answer(&own_pid)?;
            sleep_for_ever()
        }
        Kind::Traced { threads } => traced::child(threads),
        Kind::TracedInNamespace { threads } => traced::in_namespace(threads),
        Kind::Churn => {
            answer(&own_pid)?;
            churn()
        }
        Kind::LeaderlessChurn => {
            beside(|| churn().unwrap_or_default())?;
            answer(&own_pid)?;
            end_thread()
        }
    }
}

fn churn() -> io::Result<()> {
    loop {
        beside(|| thread::sleep(CHURNED_FOR))?
            .join()
            .map_err(|_panic| io::Error::other("a thread panicked"))?;
    }
}

/// The child of [`Kind::ParentFirst`]. The death of its parent is a cue for it, and from then on it
/// dies with the fork server, which adopts it.
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
    // Each thread has a signal of its own for this, and from now on this one is the process.
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
