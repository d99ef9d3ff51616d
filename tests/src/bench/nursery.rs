//! Processes to die: a child of ours with one thread that forks them on demand, so that a victim is
//! as small as a process can be and nobody keeps its zombie.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal, waitpid};
use rustix::process::{WaitOptions, getppid};

use crate::sys::{Forker, ignore_children, sleep_for_ever};

/// A running nursery. Dropped, it goes with everybody in it.
pub(super) struct Nursery {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Nursery {
    pub(super) fn open() -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("nursery")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let closed = || io::Error::other("a pipe of the nursery is missing");
        Ok(Self {
            orders: process.stdin.take().ok_or_else(closed)?,
            answers: BufReader::new(process.stdout.take().ok_or_else(closed)?),
            process,
        })
    }

    /// Starts so many processes, each with so many MiB of memory in use; answers their pids.
    pub(super) fn start(&mut self, number: usize, megabytes: usize) -> io::Result<Vec<u32>> {
        writeln!(self.orders, "{number} {megabytes}")?;
        let mut pids = Vec::with_capacity(number);
        for _ in 0..number {
            let mut line = String::new();
            self.answers.read_line(&mut line)?;
            pids.push(line.trim().parse().map_err(io::Error::other)?);
        }
        Ok(pids)
    }

    pub(super) fn start_one(&mut self, megabytes: usize) -> io::Result<u32> {
        let pids = self.start(1, megabytes)?;
        pids.first()
            .copied()
            .ok_or_else(|| io::Error::other("no child"))
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        // It may have ended already.
        self.process.kill().unwrap_or_default();
        self.process.wait().map(drop).unwrap_or_default();
    }
}

/// Kills one.
pub(super) fn kill(pid: u32) -> io::Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(|| io::Error::other("pid 0"))?;
    Ok(kill_process(pid, Signal::KILL)?)
}

/// The nursery's side.
pub(super) fn run() -> io::Result<()> {
    let forker = Forker::of_this_process()?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    ignore_children();
    for order in io::stdin().lines() {
        let order = order?;
        let mut words = order.split(' ').map(str::parse::<usize>);
        let (Some(Ok(number)), Some(Ok(megabytes))) = (words.next(), words.next()) else {
            return Err(io::Error::other(format!("not an order: {order:?}")));
        };
        for _ in 0..number {
            forker.fork(|| live(megabytes))?;
        }
    }
    Ok(())
}

fn live(megabytes: usize) {
    // The nursery may have ended in between; then nobody would end this one.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() || getppid().is_none() {
        return;
    }
    // Written, page by page, so that it is really there.
    let memory = vec![0xa5_u8; megabytes << 20];
    let line = format!("{}\n", std::process::id());
    // One write, so that lines of several children do not mix.
    if rustix::io::write(io::stdout().as_fd(), line.as_bytes()).is_ok() {
        std::hint::black_box(&memory);
        sleep_for_ever();
    }
}

/// Forks and collects so many children, one after another, as fast as one process can.
pub(super) fn storm(children: Option<&str>) -> io::Result<()> {
    let children: u32 = children
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| io::Error::other("storm NUMBER"))?;
    let forker = Forker::of_this_process()?;
    for _ in 0..children {
        forker.fork(|| ())?;
        waitpid(None, WaitOptions::empty())?;
    }
    Ok(())
}
