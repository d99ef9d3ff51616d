//! The fork server of the measurements and its storm: this program, with a hidden subcommand.

use std::io;
use std::process::Command;

use reaper_tests::fork_server::{ForkServer, Kind};
use reaper_tests::sys::Forker;
use rustix::process::{WaitOptions, waitpid};

pub(crate) fn open() -> io::Result<ForkServer> {
    let mut program = Command::new(std::env::current_exe()?);
    program.arg("fork-server");
    ForkServer::open(program)
}

/// Processes that do nothing, each with so many MiB of memory in use.
pub(crate) const fn idle(megabytes: usize) -> Kind {
    Kind::Idle { megabytes }
}

/// The fork server's side.
pub(crate) fn run() -> io::Result<()> {
    reaper_tests::fork_server::run(false)
}

/// Forks and collects so many children, one after another, as fast as one process can.
pub(crate) fn storm(children: Option<&str>) -> io::Result<()> {
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
