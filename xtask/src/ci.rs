//! `cargo xtask ci`: the list of all checks. Developers and CI run the same list, so that no check exists
//! in one place only. Longer checks are in modules of their own.

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use crate::command::{command, effective_uid, now, run as execute, run_tests};
use crate::text::count;
use crate::{api, build_ebpf, fuzz, library_size, package, targets, tidy};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these steps, in the order of the list
    #[arg(long, value_name = "STEP", value_delimiter = ',', value_parser = step_names())]
    only: Vec<String>,
    /// List the steps and their purposes
    #[arg(long)]
    list: bool,
}

struct Step {
    name: &'static str,
    purpose: &'static str,
    check: fn() -> Result<()>,
}

/// The steps, in the order in which they run. README's command comes first, because it must work for a new
/// developer before anything else matters, and because later steps reuse its build.
const STEPS: &[Step] = &[
    Step {
        name: "test",
        purpose: "README's `cargo test --release`; as root no test may be skipped",
        check: test,
    },
    Step {
        name: "test-sweep",
        purpose: "the daemon with the sweep only, as on systems without event sources",
        check: test_sweep,
    },
    Step {
        name: "test-xtask",
        purpose: "the tests of the task runner and of the benchmarks",
        check: test_xtask,
    },
    Step {
        name: "fmt",
        purpose: "the formatting is that of rustfmt",
        check: fmt,
    },
    Step {
        name: "clippy",
        purpose: "no warnings in any target",
        check: clippy,
    },
    Step {
        name: "doc",
        purpose: "the documentation builds and its links resolve",
        check: doc,
    },
    Step {
        name: "api",
        purpose: "the public API of the libraries is that of `docs/api`",
        check: api::check,
    },
    Step {
        name: "package",
        purpose: "the three libraries can be packaged, and their examples run",
        check: package::check,
    },
    Step {
        name: "dist",
        purpose: "packages, tarball and image: same bytes twice, lint, and as root their life in a clean system",
        check: dist,
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
        purpose: "the checked-in BPF objects equal a fresh build",
        check: || build_ebpf::run(true),
    },
    Step {
        name: "fuzz",
        purpose: "every parser of untrusted bytes, 20 s each",
        check: || fuzz::run(&fuzz::Args::default()),
    },
    Step {
        name: "vm",
        purpose: "every kernel and role behaves as the matrix expects",
        check: vms,
    },
    Step {
        name: "library-size",
        purpose: "the library without the daemon builds and has few dependencies",
        check: library_size::run,
    },
    Step {
        name: "check-targets",
        purpose: "type checks for macOS, FreeBSD and WebAssembly",
        check: targets::run,
    },
];

/// Runs every chosen step, even after a failure, so that one run shows all problems.
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

fn step_names() -> PossibleValuesParser {
    PossibleValuesParser::new(STEPS.iter().map(|step| step.name))
}

/// As root, all features that tests need are available, so a test that skips for lack of one fails. For
/// other users, skips are printed with their reasons.
fn test() -> Result<()> {
    let mut tests = command("cargo", &["test", "--release", "--no-fail-fast"])?;
    if effective_uid()? == 0 {
        tests.env(
            "REAPER_REQUIRE",
            "netlink,ebpf,pidfd,gdb,strace,prometheus,systemd,node,python,schemathesis",
        );
    }
    run_tests(&mut tests)
}

/// Reuses the build of the first step.
fn test_sweep() -> Result<()> {
    let args = ["test", "--release", "--test", "cli", "--test", "http"];
    run_tests(command("cargo", &args)?.env("REAPER_SOURCES", "sweep"))
}

fn test_xtask() -> Result<()> {
    let mut tests = command("cargo", &["test", "--release", "--package", "xtask"])?;
    tests.args(["--package", "reaper-bench"]);
    run_tests(&mut tests)
}

/// On every kernel and in every role: the features, how the daemon uses them, and as root a part of the
/// stress suite. On the oldest and the newest kernel also conformance and the machine-wide faults. The
/// other suites take minutes per guest under emulation: step `test` runs them on the host, and
/// `cargo xtask vm` in every guest.
fn vms() -> Result<()> {
    let xtask = std::env::current_exe()?;
    let everywhere = ["vm", "--suite", "kernel_features,roles,stress"].as_slice();
    let conformance = ["vm", "--suite", "conformance"].as_slice();
    let machine = ["vm", "--suite", "system_faults", "--filter", "machine::"].as_slice();
    let oldest_and_newest = ["--kernel", "5.10,newest", "--role", "root"].as_slice();
    // Several times as long as a guest needs; a guest that hangs must not use up CI's time.
    let limit = ["--time-limit", "900"].as_slice();
    for run in [
        [everywhere, limit].concat(),
        [conformance, oldest_and_newest, limit].concat(),
        [machine, oldest_and_newest, limit].concat(),
    ] {
        run_tests(&mut command(&xtask.to_string_lossy(), &run)?)?;
    }
    Ok(())
}

/// With the binary of step `test`: a build with the paths replaced, and a static one, are for releases. So the
/// image is made and not run here. It and the clean system need root.
fn dist() -> Result<()> {
    let xtask = std::env::current_exe()?;
    let formats = if effective_uid()? == 0 {
        "deb,rpm,tar,image"
    } else {
        println!("skipped: not root: the image");
        "deb,rpm,tar"
    };
    let args = ["dist", "--check", "--only", formats, "--binary"];
    let mut dist = command(&xtask.to_string_lossy(), &args)?;
    execute(dist.arg("target/release/reaperd"))
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

/// Without `advisories`, whose result changes while the code does not.
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
