//! Runs other programs: prints each command and its time; an error contains the command.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Returns the folder of the workspace. Read at run time, so that a moved clone works.
pub(crate) fn repo_root() -> Result<PathBuf> {
    let manifest_dir = std::env::var("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
    let root = Path::new(&manifest_dir)
        .parent()
        .context("xtask/ lies in the workspace")?;
    Ok(root.to_path_buf())
}

/// Returns cargo's own folder.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(folder));
    }
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

/// Returns a command that runs at the root of the workspace, without input.
pub(crate) fn command(program: &str, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(repo_root()?)
        .stdin(Stdio::null());
    Ok(command)
}

/// Runs a command with inherited output. An exit status other than success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = describe(command);
    eprintln!("$ {line}");
    let start = now();
    let status = command
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    ended(&line, start, status, "")
}

/// As [`run`], for tests: the error also has the lines that name failures, because those of a long run are
/// far above its end.
pub(crate) fn run_tests(command: &mut Command) -> Result<()> {
    let line = describe(command);
    eprintln!("$ {line}");
    let start = now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let stdout = child.stdout.take().context("the pipe of the tests")?;
    let mut failures = String::new();
    for output in BufReader::new(stdout).lines() {
        let output = output.context("read the output of the tests")?;
        println!("{output}");
        if names_failure(&output) {
            failures += "\n  ";
            failures += &output;
        }
    }
    let status = child.wait().context("wait for the tests")?;
    ended(&line, start, status, &failures)
}

/// Prints the time of a command that succeeded; otherwise returns the error, with `details` at its end.
fn ended(line: &str, start: Instant, status: ExitStatus, details: &str) -> Result<()> {
    let seconds = start.elapsed().as_secs_f32();
    if !status.success() {
        bail!("`{line}` failed after {seconds:.1} s ({status}){details}");
    }
    eprintln!("  {seconds:.1} s");
    Ok(())
}

/// Lines of the test harness, of a panic, and of `cargo xtask vm`.
fn names_failure(line: &str) -> bool {
    let is_test = line.starts_with("test ") && line.ends_with("FAILED");
    let is_panic = line.starts_with("thread '") && line.contains(" panicked at ");
    is_test || is_panic || line.starts_with("FAILURE ")
}

/// Runs a command and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` wrote invalid UTF-8"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "suspend does not matter to the task runner"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Read from /proc, because std has no call for it. Systems without it have no privileged tests.
pub(crate) fn effective_uid() -> Result<u32> {
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return Ok(u32::MAX);
    };
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective = uids.and_then(|uids| uids.split_whitespace().nth(1));
    effective
        .context("/proc/self/status has no Uid line")?
        .parse()
        .context("the Uid line of /proc/self/status has no number")
}

/// Returns the command as typed in a shell: the variables set here, the program, the arguments.
fn describe(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}='{}'", name.display(), value?.display())));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    variables
        .chain(words.map(|word| word.display().to_string()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_failed_tests_names_them() {
        let script =
            "echo 'test a::b ... FAILED'; echo 'test c ... ok'; echo 'FAILURE guest x'; exit 101";
        let error = run_tests(Command::new("sh").args(["-c", script])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("\n  test a::b ... FAILED\n  FAILURE guest x"),
            "{text}"
        );
        assert!(!text.contains("\n  test c"), "{text}");
    }
}
