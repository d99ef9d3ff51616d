//! A command behaves as without `run`: it inherits exactly what `run` inherited.

use reaper_tests::expect::skip;

use super::*;

/// A script that prints what a process has inherited, apart from its environment. A shell does not
/// change signals that it finds ignored.
const INHERITED: &str = "ls /proc/$$/fd; \
    for fd in 0 1 2 5 7 8 9; do readlink /proc/$$/fd/$fd; done; \
    grep -E '^(SigBlk|SigIgn|SigCgt|SigPnd|Umask|NoNewPrivs|Seccomp|Cap|Uid|Gid|Groups)' \
        /proc/self/status; \
    cat /proc/$$/limits; nice; umask; pwd; tr '\\0' '|' </proc/$$/cmdline; echo; \
    cat /proc/$$/oom_score_adj; echo \"$@\"";

/// The output of the script after these preparations, with or without `run`.
fn output(harness: &Harness, surroundings: &[&str], through_run: bool) -> String {
    let run: &[&str] = if through_run {
        &["$REAPERD", "run", "--"]
    } else {
        &[]
    };
    let run = run.join(" ");
    // The preparations run in an outer shell, which then executes the script.
    let script = format!(
        "{}; exec {run} sh -c \"$INHERITED\" zero 'one two' ''",
        surroundings[0]
    );
    let mut command = Command::new("env");
    command
        .args(&surroundings[1..])
        .args(["sh", "-c", &script])
        .env("INHERITED", INHERITED)
        .stdin(Stdio::null());
    harness.set_environment(&mut command);
    let output = CommandOutput::of(&mut command);
    assert_eq!(output.err, "", "{surroundings:?}");
    output.out.lines().map(comparable).collect()
}

/// Removes what differs between any two starts. Signals 32 and 33 are used by the C library: it
/// sets actions for them when a program starts its first thread (`nptl/pthread_create.c`, glibc
/// 2.36), so no program with threads passes on their former actions.
fn comparable(line: &str) -> String {
    if line.starts_with("pipe:") {
        return "a pipe\n".to_owned();
    }
    let mask = line.strip_prefix("SigIgn:\t");
    match mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()) {
        Some(mask) => format!("SigIgn:\t{:016x}\n", mask & !(0b11 << 31)),
        None => format!("{line}\n"),
    }
}

#[test]
fn a_command_inherits_what_run_inherited_and_nothing_else() {
    let block = "--block-signal=USR1,TERM";
    let blocks_signals = Command::new("env").args([block, "true"]).output().unwrap();
    if !blocks_signals.status.success() {
        return skip("env cannot block signals here (needs coreutils 8.31)");
    }
    let harness = Harness::new();
    for surroundings in [
        &["true"][..],
        &["trap '' INT HUP PIPE CHLD; umask 027; ulimit -n 99; ulimit -c 0"],
        &["exec 7</dev/null 8>&1 9>/dev/null"],
        &["exec <&-"],
        &["exec <&- 5</dev/null; cd /"],
        &["true", block, "--ignore-signal=PIPE,QUIT"],
        &["true", "nice", "-n", "5"],
    ] {
        let plain = output(&harness, surroundings, false);
        let through_run = output(&harness, surroundings, true);
        assert!(plain.contains("SigIgn"), "{plain}");
        assert_eq!(plain, through_run, "{surroundings:?}");
    }
    harness.leaves_nothing();
}
