//! Processes with a tracer that never waits: what it traces stays a zombie until the tracer ends.

use std::fs;
use std::io::{self, PipeWriter, Read as _, Write as _};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

use super::CUE;
use super::commands::reply;
use super::forked_process::beside;
use crate::sys::{Forker, end_thread, seize, sleep_for_ever, unshare_namespaces, wait_for};

/// Both processes of [`super::Kind::Traced`].
pub(super) fn child(threads: usize) -> io::Result<()> {
    let tracer = getpid();
    let (mut ready, is_ready) = io::pipe()?;
    let child = Forker::of_this_process()?.fork(|| {
        // After a failure the byte that the tracer waits for is missing.
        with_threads(tracer, threads, &is_ready).unwrap_or_default();
    })?;
    drop(is_ready);
    ready.read_exact(&mut [0])?;
    for thread in fs::read_dir(format!("/proc/{child}/task"))? {
        let thread = thread?.file_name().into_string().unwrap_or_default();
        if thread != child.to_string() {
            seize(parse_pid(&thread)?)?;
        }
    }
    reply(&(tracer.as_raw_nonzero(), child))?;
    sleep_for_ever()
}

fn with_threads(tracer: Pid, threads: usize, mut is_ready: &PipeWriter) -> io::Result<()> {
    ends_with(tracer)?;
    for _ in 0..threads {
        beside(|| sleep_for_ever())?;
    }
    is_ready.write_all(&[0])?;
    wait_for(CUE);
    end_thread()
}

/// Both processes of [`super::Kind::TracedInNamespace`]. A process of the old namespace stands between
/// the two: every child of a process that has created a pid namespace is in it, and a tracer in it would
/// be killed with its init.
pub(super) fn in_namespace(threads: usize) -> io::Result<()> {
    let tracer = getpid();
    let (mut ready, is_ready) = io::pipe()?;
    let (mut init_pid, send_init_pid) = io::pipe()?;
    Forker::of_this_process()?.fork(|| {
        enters(tracer, threads, &is_ready, &send_init_pid).unwrap_or_default();
    })?;
    drop((is_ready, send_init_pid));
    let mut first = [0; 4];
    init_pid.read_exact(&mut first)?;
    let first = u32::from_ne_bytes(first);
    ready.read_exact(&mut [0])?;
    let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children"))?;
    for child in children.split_whitespace() {
        seize(parse_pid(child)?)?;
    }
    reply(&(tracer.as_raw_nonzero(), first))?;
    sleep_for_ever()
}

fn enters(
    tracer: Pid,
    threads: usize,
    is_ready: &PipeWriter,
    mut send_init_pid: &PipeWriter,
) -> io::Result<()> {
    ends_with(tracer)?;
    unshare_namespaces(true, false, false)?;
    let first = Forker::of_this_process()?.fork(|| {
        first_of_namespace(threads, is_ready).unwrap_or_default();
    })?;
    send_init_pid.write_all(&first.to_ne_bytes())?;
    sleep_for_ever()
}

fn first_of_namespace(threads: usize, mut is_ready: &PipeWriter) -> io::Result<()> {
    // `getppid` cannot be checked: the parent has no pid in this namespace.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Forker::of_this_process()?.fork(|| sleep_for_ever())?;
    for _ in 0..threads {
        beside(|| sleep_for_ever())?;
    }
    is_ready.write_all(&[0])?;
    sleep_for_ever()
}

/// Has this process killed with its parent. Fails if the parent has ended already.
fn ends_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match getppid() {
        Some(now) if now == parent => Ok(()),
        _ => Err(io::Error::other("the parent has ended")),
    }
}

fn parse_pid(text: &str) -> io::Result<Pid> {
    let pid = text.parse().ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other(format!("not a pid: {text:?}")))
}
