//! The repeated developer tasks, as `cargo xtask SUBCOMMAND`. This file only lists them.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task runner reports to the terminal"
)]

mod api;
mod bench;
mod build_ebpf;
mod ci;
mod command;
mod dist;
mod fuzz;
mod library_size;
mod package;
mod targets;
mod text;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// The developer tasks of this repository
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Xtask {
    /// Run every check; CI runs the same list
    Ci(ci::Args),
    /// Compare the public API of the libraries with `docs/api`
    Api(api::Args),
    /// Check the rules of the repository that compiler and linter do not check
    Tidy,
    /// Measure every figure that this project promises, and write `docs/benchmarks.md`
    Bench(bench::Args),
    /// Build the BPF objects into `reaper-ebpf/prebuilt`
    BuildEbpf {
        /// Compare a fresh build with the checked-in objects instead of replacing them
        #[arg(long)]
        check: bool,
    },
    /// Type-check the daemon for macOS and FreeBSD, and the registry for bare WebAssembly
    CheckTargets,
    /// Make what a release consists of: packages, a tarball, an image, checksums, the SBOM
    Dist(dist::Args),
    /// Fuzz every parser of untrusted bytes for a while
    Fuzz(fuzz::Args),
    /// Run test binaries on real kernels under QEMU, in every role
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let outcome = match Xtask::parse() {
        Xtask::Ci(args) => ci::run(&args),
        Xtask::Api(args) => api::run(&args),
        Xtask::Tidy => tidy::run(),
        Xtask::Bench(args) => bench::run(&args),
        Xtask::BuildEbpf { check } => build_ebpf::run(check),
        Xtask::CheckTargets => targets::run(),
        Xtask::Dist(args) => dist::run(&args),
        Xtask::Fuzz(args) => fuzz::run(&args),
        Xtask::Vm(args) => vm::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
