//! Runs a program without pidfds and with few descriptors. Both limits survive exec, so a separate
//! process takes them on and executes the program.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::sys::seccomp::{Call, deny};

/// The subcommand whose arguments [`enter`] takes.
pub const COMMAND: &str = "confined";

/// A command prefix that runs a program without pidfds and with at most so many descriptors;
/// `entry` is the program that calls [`enter`].
pub fn without_pidfds(entry: &Path, descriptors: u64) -> [String; 3] {
    [
        entry.display().to_string(),
        COMMAND.to_owned(),
        descriptors.to_string(),
    ]
}

/// `DESCRIPTORS PROGRAM ARGS..`: executes the program. Returns only on failure.
pub fn enter(mut arguments: impl Iterator<Item = String>) -> io::Result<()> {
    let usage = || io::Error::other("DESCRIPTORS PROGRAM ARGS..");
    let descriptors = arguments.next().and_then(|count| count.parse().ok());
    let program = arguments.next().ok_or_else(usage)?;
    let limit = Some(descriptors.ok_or_else(usage)?);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, limit)?;
    deny(&[Call::from(libc::SYS_pidfd_open)], Errno::NOSYS)?;
    Err(Command::new(program).args(arguments).exec())
}
