//! `cargo xtask bench`: builds the daemon as it is packaged, and the benchmark program, and runs the latter. The
//! measurements are in `tests/bench`.

use anyhow::Result;

use crate::command::{command, repo_root, run as execute};

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
    let mut daemon = command("cargo", &["build", "--profile", "dist", "--locked"])?;
    execute(daemon.args(["--package", "reaperd"]))?;
    let mut build = command("cargo", &["build", "--release", "--locked"])?;
    execute(build.args(["--package", "reaper-bench"]))?;
    let mut bench = command("target/release/bench", &[])?;
    bench.env("REAPERD_BIN", repo_root()?.join("target/dist/reaperd"));
    bench.args(["--rounds", &args.rounds.to_string()]);
    if args.only.is_empty() {
        bench.args(["--write", REPORT]);
    } else {
        bench.args(["--only", &args.only.join(",")]);
    }
    execute(&mut bench)
}
