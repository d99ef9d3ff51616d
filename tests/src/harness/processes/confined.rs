//! A program with less than it would have: without pidfds, and with few descriptors. Both belong to
//! a process and what it becomes, so a process of its own enters and becomes the program.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::sys::seccomp::{Call, deny};

/// The word behind which [`enter`] expects its own.
pub const COMMAND: &str = "confined";

/// The words before a program that has it run without pidfds and with at most so many descriptors;
/// `entrance` is the program that calls [`enter`].
pub fn without_pidfds(entrance: &Path, descriptors: u64) -> [String; 3] {
    [
        entrance.display().to_string(),
        COMMAND.to_owned(),
        descriptors.to_string(),
    ]
}

/// `DESCRIPTORS PROGRAM ARGS..`: becomes the program, or says why not.
pub fn enter(mut words: impl Iterator<Item = String>) -> io::Result<()> {
    let usage = || io::Error::other("DESCRIPTORS PROGRAM ARGS..");
    let descriptors = words.next().and_then(|word| word.parse().ok());
    let program = words.next().ok_or_else(usage)?;
    let limit = Some(descriptors.ok_or_else(usage)?);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, limit)?;
    deny(&[Call::from(libc::SYS_pidfd_open)], Errno::NOSYS)?;
    Err(Command::new(program).args(words).exec())
}
