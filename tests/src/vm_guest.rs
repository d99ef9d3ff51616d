//! PID 1 of a VM guest: mounts file systems, runs every test binary in the role that the kernel command
//! line names, reports the verdicts, and powers off. The host (`xtask/src/vm.rs`) chooses roles and
//! binaries and limits the time.

mod boot;
mod roles;
mod suites;

use std::env;
use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

pub use roles::Role;

/// Without arguments as PID 1: boots. `enter ROLE PROGRAM ARGS..`: executes the program in the role.
pub fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let result = match args.next() {
        None if std::process::id() == 1 => boot::run().map(|()| ExitCode::SUCCESS),
        Some(command) if command == "enter" => roles::enter(args.collect()),
        _ => Err("runs only as the init of a guest: use `cargo xtask vm`".to_owned()),
    };
    result.unwrap_or_else(|error| {
        // Standard error may be closed; then the exit code has to do.
        drop(writeln!(std::io::stderr(), "vm-init: {error}"));
        ExitCode::from(125)
    })
}

/// Adds to an error what was being done.
fn context<T, E: Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}
