//! The fork server of the measurements: this very program, under a hidden command. And its storm.

use std::io;
use std::process::Command;

use rustix::process::{WaitOptions, waitpid};

use crate::fork_server::{ForkServer, Kind, run as obey};
use crate::sys::Forker;

pub(super) fn open() -> io::Result<ForkServer> {
    let mut program = Command::new(std::env::current_exe()?);
    program.arg("fork-server");
    ForkServer::open(program)
}

/// Processes that do nothing, each with so many MiB of memory in use.
pub(super) const fn idle(megabytes: usize) -> Kind {
    Kind::Idle { megabytes }
}

/// The fork server's side.
pub(super) fn run() -> io::Result<()> {
    obey(false)
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
