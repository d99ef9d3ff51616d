//! `cargo xtask fuzz`: builds every fuzz target, runs each for a while from the checked-in corpus, and
//! prints statistics. The properties that are checked are in `tests/fuzz/src/oracles`. New inputs are
//! written below `target/`: a run never changes the checkout.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::command::{command, output, repo_root, run as execute};
use crate::text::count;

/// How long each target runs in CI.
const SECONDS: u32 = 20;
/// How many targets run at a time in CI, which has two processors.
const JOBS: usize = 2;
const FOLDER: &str = "tests/fuzz";
const TARGET_DIR: &str = "target/fuzz";
/// A target that takes longer for one input, of at most 16 KiB, has a performance bug.
const SECONDS_PER_INPUT: u32 = 5;
const MEMORY_LIMIT_MIB: u32 = 2_048;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, default_value_t = SECONDS)]
    seconds: u32,
    /// Run only these targets
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    target: Vec<String>,
    /// How many targets run at a time
    #[arg(long, default_value_t = JOBS)]
    jobs: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            seconds: SECONDS,
            target: Vec::new(),
            jobs: JOBS,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let Args {
        seconds,
        target,
        jobs,
    } = args;
    let all = targets()?;
    if let Some(unknown) = target.iter().find(|name| !all.contains(name)) {
        bail!("unknown target {unknown}; known are {}", all.join(", "));
    }
    let chosen = all
        .into_iter()
        .filter(|name| target.is_empty() || target.contains(name));
    let waiting = Mutex::new(chosen.collect::<VecDeque<_>>());
    let programs = build(*seconds)?;
    eprintln!("each runs for {seconds} s, {jobs} at a time");
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..(*jobs).max(1) {
            scope.spawn(|| {
                while let Some(name) = next(&waiting) {
                    let outcome = fuzz(&programs, &name, *seconds);
                    outcomes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((name, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by(|one, other| one.0.cmp(&other.0));
    report(outcomes)
}

fn next(waiting: &Mutex<VecDeque<String>>) -> Option<String> {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.pop_front()
}

/// Returns the names of the targets; each is a file in `src/bin`.
fn targets() -> Result<Vec<String>> {
    let folder = repo_root()?.join(FOLDER).join("src/bin");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.display().to_string()));
    }
    names.sort();
    Ok(names)
}

/// Builds all targets with the address sanitizer, and returns their folder.
fn build(seconds: u32) -> Result<PathBuf> {
    let triple = host()?;
    let args = [
        "fuzz",
        "build",
        "--fuzz-dir",
        FOLDER,
        "--target-dir",
        TARGET_DIR,
        "--target",
        &triple,
        // One unit per crate would take minutes longer to build, which matters more than speed.
        "--codegen-units",
        "16",
    ];
    let mut build = command("cargo", &args)?;
    // Allows a stable compiler to use sanitizers.
    build.env("RUSTC_BOOTSTRAP", "1");
    if seconds <= SECONDS {
        // An optimised build would take longer than all targets run.
        build.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    }
    execute(&mut build).context("if cargo has no `fuzz`: bash .ci/install-fuzz")?;
    Ok(repo_root()?.join(TARGET_DIR).join(triple).join("release"))
}

fn host() -> Result<String> {
    let version = output(&mut command("rustc", &["--version", "--verbose"])?)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// The result of a target.
struct Outcome {
    status: ExitStatus,
    log: String,
    log_path: PathBuf,
    program: PathBuf,
}

fn fuzz(programs: &Path, name: &str, seconds: u32) -> Result<Outcome> {
    let root = repo_root()?;
    let new_inputs = root.join(TARGET_DIR).join("corpus").join(name);
    let artifacts = root.join(TARGET_DIR).join("artifacts").join(name);
    for folder in [&new_inputs, &artifacts] {
        fs::create_dir_all(folder)?;
    }
    let log_path = root.join(TARGET_DIR).join(format!("{name}.log"));
    let program = programs.join(name);
    let mut fuzzer = command(&program.to_string_lossy(), &[])?;
    // New inputs are written to the first folder; the others are only read.
    fuzzer.arg(&new_inputs);
    let crashes = root.join(FOLDER).join("crashes").join(name);
    let seeds = root.join(FOLDER).join("corpus").join(name);
    fuzzer.args([seeds, crashes].iter().filter(|folder| folder.is_dir()));
    fuzzer
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={SECONDS_PER_INPUT}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
        .arg("-print_final_stats=1");
    let words = root
        .join(FOLDER)
        .join("dictionaries")
        .join(format!("{name}.dict"));
    if words.is_file() {
        fuzzer.arg(format!("-dict={}", words.display()));
    }
    let log = File::create(&log_path).with_context(|| log_path.display().to_string())?;
    fuzzer.stdout(log.try_clone()?).stderr(log);
    let status = fuzzer
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(Outcome {
        status,
        log: String::from_utf8_lossy(&fs::read(&log_path)?).into_owned(),
        log_path,
        program,
    })
}

fn report(outcomes: Vec<(String, Result<Outcome>)>) -> Result<()> {
    let mut problems = Vec::new();
    let [target, runs, rate, cov, ft, new, rss] =
        ["target", "runs", "exec/s", "cov", "ft", "new", "MiB"];
    println!("{target:<16} {runs:>10} {rate:>8} {cov:>6} {ft:>6} {new:>6} {rss:>5}");
    for (name, outcome) in outcomes {
        let outcome = outcome.with_context(|| name.clone())?;
        let [runs, rate, new, rss] = [
            "number_of_executed_units",
            "average_exec_per_sec",
            "new_units_added",
            "peak_rss_mb",
        ]
        .map(|stat| statistic(&outcome.log, stat));
        let [cov, ft] = ["cov:", "ft:"].map(|key| last_after(&outcome.log, key));
        let verdict = if outcome.status.success() {
            ""
        } else {
            "  FAILED"
        };
        println!("{name:<16} {runs:>10} {rate:>8} {cov:>6} {ft:>6} {new:>6} {rss:>5}{verdict}");
        if !outcome.status.success() {
            problems.push(problem(&name, &outcome));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "{} failed\n{}",
        count(problems.len(), "target"),
        problems.join("\n")
    );
}

/// Returns what failed, how to repeat it and how to keep the input.
fn problem(name: &str, outcome: &Outcome) -> String {
    let Outcome {
        log,
        log_path,
        program,
        status,
    } = outcome;
    let panic = log
        .lines()
        .skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR: "))
        .take(3)
        .collect::<Vec<_>>()
        .join("\n    ");
    let artifact = log
        .lines()
        .find_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| path);
    match artifact {
        Some(artifact) => format!(
            "{name}: {artifact}\n    {panic}\n  to repeat: {} {artifact}\n  to keep: copy it to \
             {FOLDER}/crashes/{name}/WHAT_IT_WAS and name it in \
             {FOLDER}/tests/corpus.rs",
            program.display()
        ),
        None => format!(
            "{name}: {status}, without a failing input: see {}\n    {panic}",
            log_path.display()
        ),
    }
}

/// Returns a number of libFuzzer's final statistics; a dash if a crash prevented them.
fn statistic<'a>(log: &'a str, name: &str) -> &'a str {
    log.lines()
        .filter_map(|line| line.strip_prefix("stat::"))
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map_or("-", str::trim)
}

/// Returns the value after the last `key` in libFuzzer's progress lines.
fn last_after<'a>(log: &'a str, key: &str) -> &'a str {
    log.lines()
        .rev()
        .filter(|line| line.starts_with('#'))
        .find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            words.find(|found| *found == key)?;
            words.next()
        })
        .unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "INFO: seed corpus: files: 9\n#9\tINITED cov: 120 ft: 300 corp: 9/1Kb\n\
        #4096\tDONE   cov: 231 ft: 512 corp: 40/3Kb lim: 64 exec/s: 2048 rss: 41Mb\n\
        stat::number_of_executed_units: 4096\nstat::average_exec_per_sec:     2048\n";

    #[test]
    fn statistics_and_progress_are_read() {
        assert_eq!(statistic(LOG, "number_of_executed_units"), "4096");
        assert_eq!(statistic(LOG, "average_exec_per_sec"), "2048");
        assert_eq!(statistic(LOG, "peak_rss_mb"), "-");
        assert_eq!(
            [last_after(LOG, "cov:"), last_after(LOG, "ft:")],
            ["231", "512"]
        );
        assert_eq!(last_after("", "cov:"), "-");
    }
}
