//! `cargo xtask bench`: builds the daemon and the benchmark program and runs the latter. The measurements
//! are in `tests/bench`.

use anyhow::Result;

use crate::command::{command, run as execute};

/// The report of a complete run.
const REPORT: &str = "docs/benchmarks.md";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these measurements, and do not write the report
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// How often each measurement is repeated, interleaved with the others
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut build = command("cargo", &["build", "--release", "--locked"])?;
    build.args(["--package", "reaperd", "--package", "reaper-bench"]);
    execute(&mut build)?;
    let mut bench = command("target/release/bench", &[])?;
    bench.args(["--rounds", &args.rounds.to_string()]);
    if args.only.is_empty() {
        bench.args(["--write", REPORT]);
    } else {
        bench.args(["--only", &args.only.join(",")]);
    }
    execute(&mut bench)
}
