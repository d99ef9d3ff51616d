//! `cargo xtask bench`: builds the daemon and the measuring program and runs it. What is measured,
//! and how, is in `tests/bench`.

use anyhow::Result;

use crate::command::{command, run as execute};

/// Where a whole run is written down.
const REPORT: &str = "docs/benchmarks.md";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure only these; the report is left as it is
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Interleaved repetitions
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
