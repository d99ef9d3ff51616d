//! One guest: starts QEMU, waits until it ends or the time limit passes, and reads the verdicts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::kernels::Kernel;
use super::matrix::{self, Role};

/// How often to check whether a guest has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long a kernel may take to start our init. It takes two seconds on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// All features of the emulated processor except cmpxchg16b. With it, a quarter of the 6.12 guests crashed
/// at random, mostly in the slab allocator right after that instruction, with wrong flags (10 of 40 boots
/// under QEMU 7.2; none of 280 without it).
const CPU: &str = "max,cx16=off";

/// How many console lines the report of a failed guest contains.
const TAIL_LINES: usize = 25;

/// A kernel, a role, and what to run in them.
pub(crate) struct Guest<'run> {
    pub(crate) kernel: &'run Kernel,
    pub(crate) role: Role,
    pub(crate) initrd: PathBuf,
    pub(crate) filter: Option<String>,
    /// Whether the long suites run at full scale.
    pub(crate) full: bool,
    pub(crate) time_limit: Duration,
    pub(crate) accel: String,
    /// The file for the console output; the verdicts are in a file beside it.
    pub(crate) log: PathBuf,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Ok,
    Skipped(String),
    Failed(String),
}

/// The result of a guest.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// By `suite::test`.
    pub(crate) verdicts: BTreeMap<String, Verdict>,
    /// The output of tests, by `suite::test`.
    pub(crate) output: BTreeMap<String, String>,
    /// Problems of the guest itself, beyond its tests.
    pub(crate) problems: Vec<String>,
    pub(crate) seconds: f64,
    /// Whether our init has written anything.
    pub(crate) init_started: bool,
    /// The problems of the first boot, if this is the second.
    pub(crate) failed_boot: Option<String>,
}

/// How QEMU ended.
enum End {
    Exited(std::process::ExitStatus),
    Killed(Duration),
}

/// Runs a guest. If our init has not started, boots it once more: the emulated boot failed, and nothing
/// was tested. Failures after that are never repeated.
pub(crate) fn run(guest: &Guest<'_>) -> Outcome {
    let first = run_once(guest);
    if first.init_started {
        return first;
    }
    let mut second = run_once(guest);
    second.seconds += first.seconds;
    second.failed_boot = Some(first.problems.join("; "));
    second
}

fn run_once(guest: &Guest<'_>) -> Outcome {
    let started = now();
    let verdicts = guest.log.with_extension("verdicts");
    let ended = start(guest, &verdicts).and_then(|child| wait(child, guest, &verdicts));
    let written = fs::read(&verdicts).unwrap_or_default();
    let mut outcome = read_verdicts(&String::from_utf8_lossy(&written));
    outcome.seconds = started.elapsed().as_secs_f64();
    match ended {
        Ok(End::Exited(status)) if status.success() => {}
        Ok(End::Exited(status)) => outcome.problems.push(format!("qemu ended with {status}")),
        Ok(End::Killed(limit)) => {
            let seconds = limit.as_secs();
            outcome
                .problems
                .push(format!("hung: killed after {seconds} s"));
        }
        Err(error) => outcome.problems.push(format!("{error:#}")),
    }
    if !outcome.problems.is_empty() {
        outcome.problems.push(tail(&guest.log));
    }
    outcome
}

fn start(guest: &Guest<'_>, verdicts: &Path) -> anyhow::Result<Child> {
    for stale in [&guest.log, verdicts] {
        fs::write(stale, "").with_context(|| stale.display().to_string())?;
    }
    let serial = |path: &Path| format!("file:{}", path.display());
    // A guest must not outlive this process, however it ends.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
        .args(["-accel", &guest.accel, "-cpu", CPU])
        .args(["-smp", "2", "-m", "768"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-serial", &serial(&guest.log), "-serial", &serial(verdicts)])
        .arg("-kernel")
        .arg(&guest.kernel.image)
        .arg("-initrd")
        .arg(&guest.initrd)
        .args(["-append", &command_line(guest)])
        .stdin(Stdio::null())
        .spawn()
        .context("qemu-system-x86_64: run .ci/install-vm-tools")
}

/// A panic or an oops ends the guest at once, because `-no-reboot` turns the reboot into an exit. The timer
/// check is off, because it compares ticks with a loop and fails on a busy host.
fn command_line(guest: &Guest<'_>) -> String {
    let Guest {
        kernel,
        role,
        filter,
        full,
        ..
    } = guest;
    let mut line = format!(
        "console=ttyS0 quiet panic=-1 oops=panic no_timer_check random.trust_cpu=on \
         reaper.role={} reaper.expect={} reaper.require={}",
        role.name(),
        matrix::expectations(kernel.version, *role),
        matrix::required(kernel.version, *role),
    );
    if *full {
        line += " reaper.scale=full";
    }
    if let Some(filter) = filter {
        line += &format!(" reaper.filter={filter}");
    }
    line
}

fn wait(mut child: Child, guest: &Guest<'_>, verdicts: &Path) -> anyhow::Result<End> {
    let started = now();
    loop {
        if let Some(status) = child.try_wait().context("wait for qemu")? {
            return Ok(End::Exited(status));
        }
        let is_up = || fs::metadata(verdicts).is_ok_and(|file| file.len() > 0);
        let past = |limit| started.elapsed() >= limit;
        if past(guest.time_limit) || past(BOOT_LIMIT) && !is_up() {
            child.kill().context("kill qemu")?;
            child.wait().context("wait for qemu")?;
            return Ok(End::Killed(started.elapsed()));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Reads the lines that `tests/src/vm_guest/suites.rs` writes.
fn read_verdicts(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut running = None;
    let mut has_ended = false;
    for line in text
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("REAPER-VM "))
    {
        outcome.init_started = true;
        if let Some(name) = line.strip_prefix("start=") {
            running = Some(name.to_owned());
        } else if let Some(verdict) = line.strip_prefix("test=") {
            running = None;
            outcome.verdicts.extend(verdict_of(verdict));
        } else if let Some(output) = line.strip_prefix("output=") {
            let (name, text) = output.split_once(' ').unwrap_or((output, ""));
            let all = outcome.output.entry(name.to_owned()).or_default();
            all.push_str(text);
            all.push('\n');
        } else if let Some(suite) = line.strip_prefix("suite=") {
            outcome
                .problems
                .extend(unexplained_failure(suite, &outcome.verdicts));
        } else if let Some(error) = line.strip_prefix("error=") {
            outcome.problems.push(format!("init: {error}"));
        }
        has_ended |= line == "end";
    }
    if let Some(name) = running {
        let why = "the guest ended or hung during this test".to_owned();
        outcome.verdicts.insert(name, Verdict::Failed(why));
    }
    if !has_ended {
        outcome.problems.push("the guest did not finish".to_owned());
    }
    outcome
}

/// Parses `NAME verdict=VERDICT reason=REASON`.
fn verdict_of(text: &str) -> Option<(String, Verdict)> {
    let (name, rest) = text.split_once(" verdict=")?;
    let (verdict, reason) = rest.split_once(" reason=").unwrap_or((rest, ""));
    let verdict = match verdict {
        "ok" => Verdict::Ok,
        "skipped" => Verdict::Skipped(reason.to_owned()),
        _ => Verdict::Failed(reason.to_owned()),
    };
    Some((name.to_owned(), verdict))
}

/// Parses `SUITE ended=STATUS`. Returns a problem if the binary failed and none of its tests did.
fn unexplained_failure(text: &str, verdicts: &BTreeMap<String, Verdict>) -> Option<String> {
    let (suite, status) = text.split_once(" ended=")?;
    let is_own = |name: &str| name.split_once("::").is_some_and(|(of, _)| of == suite);
    let has_failed = verdicts
        .iter()
        .any(|(name, verdict)| is_own(name) && matches!(verdict, Verdict::Failed(_)));
    let is_unexplained = status != "exit status: 0" && !has_failed;
    is_unexplained.then(|| format!("{suite} ended with {status}, but none of its tests failed"))
}

fn tail(log: &Path) -> String {
    let console = fs::read(log).unwrap_or_default();
    let console = String::from_utf8_lossy(&console).replace('\r', "");
    let lines: Vec<_> = console.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    format!(
        "last lines of {}:\n    {}",
        log.display(),
        last.join("\n    ")
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "suspend does not matter to the task runner"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "REAPER-VM role=root kernel=6.1\r\nREAPER-VM start=g::a\r\n\
        REAPER-VM test=g::a verdict=ok reason=\r\nREAPER-VM start=g::b\r\n\
        REAPER-VM test=g::b verdict=ok reason=\r\n\
        REAPER-VM test=g::b verdict=skipped reason=ebpf=down:EPERM\r\n\
        REAPER-VM output=g::b skipped: it\r\nREAPER-VM suite=g ended=exit status: 0\r\n";

    #[test]
    fn the_last_verdict_counts() {
        let outcome = read_verdicts(&format!("{GOOD}REAPER-VM end\r\n"));
        assert_eq!(outcome.verdicts["g::a"], Verdict::Ok);
        assert_eq!(
            outcome.verdicts["g::b"],
            Verdict::Skipped("ebpf=down:EPERM".to_owned())
        );
        assert_eq!(outcome.output["g::b"], "skipped: it\n");
        assert_eq!(outcome.problems, Vec::<String>::new());
    }

    #[test]
    fn a_test_during_which_the_guest_ends_has_failed() {
        let outcome = read_verdicts(&format!("{GOOD}REAPER-VM start=g::c\r\n"));
        assert!(matches!(outcome.verdicts["g::c"], Verdict::Failed(_)));
        assert_eq!(outcome.problems.len(), 1);
    }

    #[test]
    fn a_binary_that_fails_without_a_failed_test_is_a_problem() {
        let crashed = GOOD.replace("exit status: 0", "signal: 11 (SIGSEGV)");
        let outcome = read_verdicts(&format!("{crashed}REAPER-VM end\r\n"));
        assert_eq!(outcome.problems.len(), 1);
    }
}
