//! `cargo xtask ci`: the one list of checks. People and CI run this and nothing else, so that no
//! check exists in one place only. What a check does is left to its tool or to its own module.

use std::fs;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use crate::command::{command, now, run as execute};
use crate::{build_ebpf, fuzz, targets, tidy};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these steps, in the order of the list
    #[arg(long, value_name = "STEP", value_delimiter = ',', value_parser = step_names())]
    only: Vec<String>,
    /// Print the steps and what they are for
    #[arg(long)]
    list: bool,
}

struct Step {
    name: &'static str,
    purpose: &'static str,
    check: fn() -> Result<()>,
}

/// Run in this order. README's own command comes first: what a newcomer types must work before
/// anything else matters, and the builds that follow share its artefacts.
const STEPS: &[Step] = &[
    Step {
        name: "test",
        purpose: "README's `cargo test --release`; as root no test may skip",
        check: test,
    },
    Step {
        name: "test-sweep",
        purpose: "the daemon with the sweep alone, as on systems without event sources",
        check: test_sweep,
    },
    Step {
        name: "test-xtask",
        purpose: "the tests of the task runner and of the benchmarks",
        check: test_xtask,
    },
    Step {
        name: "fmt",
        purpose: "one formatting",
        check: fmt,
    },
    Step {
        name: "clippy",
        purpose: "no warning in any target",
        check: clippy,
    },
    Step {
        name: "doc",
        purpose: "the documentation builds and its links resolve",
        check: doc,
    },
    Step {
        name: "tidy",
        purpose: "the rules of the repository",
        check: tidy::run,
    },
    Step {
        name: "deny",
        purpose: "licences and origin of every dependency",
        check: deny,
    },
    Step {
        name: "build-ebpf",
        purpose: "the checked-in BPF objects are what their source builds",
        check: || build_ebpf::run(true),
    },
    Step {
        name: "fuzz",
        purpose: "every parser of bytes from outside, 20 s each",
        check: || fuzz::run(&fuzz::Args::default()),
    },
    Step {
        name: "vm",
        purpose: "every kernel and role behaves as the matrix says",
        check: vms,
    },
    Step {
        name: "check-targets",
        purpose: "macOS, FreeBSD, WebAssembly",
        check: targets::run,
    },
];

/// Runs every chosen step even after a failure: one run shows all that is wrong.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Args { only, list } = args;
    if *list {
        for Step { name, purpose, .. } in STEPS {
            println!("{name:<14} {purpose}");
        }
        return Ok(());
    }
    let chosen = |step: &&Step| only.is_empty() || only.iter().any(|name| name == step.name);
    let mut summary = Vec::new();
    let mut failures = Vec::new();
    for Step {
        name,
        purpose,
        check,
    } in STEPS.iter().filter(chosen)
    {
        eprintln!("\n== {name}: {purpose}");
        let start = now();
        let outcome = check();
        let seconds = start.elapsed().as_secs_f32();
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        eprintln!("== {name}: {verdict}, {seconds:.1} s");
        summary.push(format!("{name:<14} {verdict:<6} {seconds:>7.1} s"));
        if let Err(error) = outcome {
            eprintln!("{error:#}");
            failures.push(format!("{name}: {error:#}"));
        }
    }
    println!("\n{}\n", summary.join("\n"));
    if !failures.is_empty() {
        bail!(
            "{} failed\n{}",
            count(failures.len(), "step"),
            failures.join("\n")
        );
    }
    Ok(())
}

/// "1 step", "2 steps".
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn step_names() -> PossibleValuesParser {
    PossibleValuesParser::new(STEPS.iter().map(|step| step.name))
}

/// Root can do all that the tests try, so that a skip for want of one of these fails. Anybody else's
/// skips are printed with their reasons.
fn test() -> Result<()> {
    let mut tests = command("cargo", &["test", "--release", "--no-fail-fast"])?;
    if effective_uid()? == 0 {
        tests.env("REAPER_REQUIRE", "netlink,ebpf,pidfd,gdb,strace");
    }
    execute(&mut tests)
}

/// Nothing is built again: the packages are those of the first step.
fn test_sweep() -> Result<()> {
    let args = ["test", "--release", "--test", "cli", "--test", "http"];
    execute(command("cargo", &args)?.env("REAPER_SOURCES", "sweep"))
}

fn test_xtask() -> Result<()> {
    let mut tests = command("cargo", &["test", "--release", "--package", "xtask"])?;
    tests.args(["--package", "reaper-bench"]);
    execute(&mut tests)
}

/// What each kernel and role offers, what the daemon makes of it, and a share of the toll as root;
/// and on the oldest and the newest kernel the contract, and the faults that are put upon a whole
/// machine. The other suites take minutes a guest under emulation; they run on the host above, and
/// everywhere by `cargo xtask vm`.
fn vms() -> Result<()> {
    let xtask = std::env::current_exe()?;
    let shares = ["vm", "--suite", "kernel_features,roles,stress"].as_slice();
    let conformance = ["vm", "--suite", "conformance"].as_slice();
    let machine = ["vm", "--suite", "system_faults", "--filter", "machine::"].as_slice();
    let ends_of_the_list = ["--kernel", "5.10,newest", "--role", "root"].as_slice();
    // Several times what a guest needs: one that hangs must not take all of CI's time.
    let limit = ["--time-limit", "900"].as_slice();
    for run in [
        [shares, limit].concat(),
        [conformance, ends_of_the_list, limit].concat(),
        [machine, ends_of_the_list, limit].concat(),
    ] {
        execute(&mut command(&xtask.to_string_lossy(), &run)?)?;
    }
    Ok(())
}

fn fmt() -> Result<()> {
    execute(&mut command("cargo", &["fmt", "--all", "--check"])?)
}

fn clippy() -> Result<()> {
    let args = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--release",
        "--",
        "-D",
        "warnings",
    ];
    execute(&mut command("cargo", &args)?)
}

fn doc() -> Result<()> {
    let mut doc = command("cargo", &["doc", "--no-deps", "--workspace", "--release"])?;
    execute(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Without `advisories`: a verdict that changes while the code does not has no place in a gate.
fn deny() -> Result<()> {
    let args = [
        "deny",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ];
    execute(&mut command("cargo", &args)?)
        .context("if cargo has no `deny`: cargo install --locked --debug cargo-deny@0.20.2")
}

/// From /proc, since std has no call for it; elsewhere there are no privileged tests to run.
fn effective_uid() -> Result<u32> {
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return Ok(u32::MAX);
    };
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective = uids.and_then(|uids| uids.split_whitespace().nth(1));
    effective
        .context("/proc/self/status has no Uid line")?
        .parse()
        .context("Uid is no number")
}
