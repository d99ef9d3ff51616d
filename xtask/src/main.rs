//! Every repeated developer action, as `cargo xtask SUBCOMMAND`. This file is only the list of them.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task runner talks to the person who started it"
)]

mod ci;
mod command;
mod targets;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

/// The developer actions of this repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Xtask {
    /// Run every check, the same list for people and for CI
    Ci(ci::Args),
    /// Check the rules of the repository that no compiler checks
    Tidy,
    /// Type-check the daemon for macOS and FreeBSD, and the registry for bare WebAssembly
    CheckTargets,
}

fn main() -> ExitCode {
    let outcome = match Xtask::parse() {
        Xtask::Ci(args) => ci::run(&args),
        Xtask::Tidy => tidy::run(),
        Xtask::CheckTargets => targets::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
