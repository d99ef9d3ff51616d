//! What runs as PID 1 in a VM guest: mount, run every test binary in the role that the kernel
//! command line names, say the verdicts, power off. Which roles and binaries there are, and how
//! long a guest may take, is the host's business (`xtask/src/vm.rs`).

mod boot;
mod roles;
mod suites;

use std::env;
use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

pub use roles::Role;

/// Without arguments as PID 1: boots. `enter ROLE PROGRAM ARGS..`: becomes the program in the role.
pub fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let result = match args.next() {
        None if std::process::id() == 1 => boot::run().map(|()| ExitCode::SUCCESS),
        Some(word) if word == "enter" => roles::enter(args.collect()),
        _ => Err("runs only as the init of a guest: use `cargo xtask vm`".to_owned()),
    };
    result.unwrap_or_else(|error| {
        // Standard error may be gone, and there is nobody else to tell.
        drop(writeln!(std::io::stderr(), "vm-init: {error}"));
        ExitCode::from(125)
    })
}

/// Says what was being done when a call failed.
fn context<T, E: Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}
