//! The transcripts of docs/journeys: each is executed, and what it shows must be what happens.
//!
//! The lines that begin with `$ ` in the blocks `console` of a page run in one shell, in a private folder,
//! in order. What follows a command is its output, in which `[..]` stands for any text of a line and `...`
//! for any number of lines.

use std::fs;
use std::path::{Path, PathBuf};

use reaper_tests::daemon::private_folder;

use super::*;

/// What the shell prints behind the output of each command.
const MARK: &str = "\u{1}end of command";

/// A command and the output that the page shows.
struct Step {
    command: String,
    expected: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_block = false;
    for line in page.lines() {
        match (in_block, line.strip_prefix("$ ")) {
            (false, _) => in_block = line == "```console",
            (true, _) if line == "```" => in_block = false,
            (true, Some(command)) => steps.push(Step {
                command: command.to_owned(),
                expected: Vec::new(),
            }),
            (true, None) => {
                let step = steps.last_mut().expect("a block begins with a command");
                step.expected.push(line.to_owned());
            }
        }
    }
    steps
}

/// Returns whether the line is the pattern, in which `[..]` stands for any text.
fn matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once("[..]") {
        None => pattern == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|line| {
            let mut ends = line.char_indices().map(|(at, _)| at).chain([line.len()]);
            ends.any(|at| matches(rest, &line[at..]))
        }),
    }
}

/// Returns whether the lines are those of the patterns, in which `...` stands for any lines.
fn all_match(patterns: &[String], lines: &[&str]) -> bool {
    match (patterns.split_first(), lines.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((first, others)), _) if first == "..." => {
            (0..=lines.len()).any(|skipped| all_match(others, &lines[skipped..]))
        }
        (Some(_), None) => false,
        (Some((first, others)), Some((line, rest))) => {
            matches(first, line.trim_end()) && all_match(others, rest)
        }
    }
}

/// Runs the page in one shell. Background jobs of the page end with it.
fn execute(steps: &[Step]) -> Vec<String> {
    let folder = private_folder();
    let lines = steps
        .iter()
        .map(|step| format!("{{ {}\n}} 2>&1\necho '{MARK}'\n", step.command));
    let script = format!(
        "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{}",
        lines.collect::<String>()
    );
    let path = std::env::var("PATH").unwrap();
    let program = reaperd().parent().unwrap().display();
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("PATH", format!("{program}:{path}"))
        .env("XDG_RUNTIME_DIR", folder.path())
        .env("HOME", folder.path())
        .env_remove("REAPERD_SOCKET")
        .env_remove("RUST_LOG")
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.replace(folder.path().to_str().unwrap(), "$XDG_RUNTIME_DIR");
    text.split(&format!("{MARK}\n"))
        .map(str::to_owned)
        .collect()
}

fn check(name: &str) {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/journeys");
    let steps = steps(&fs::read_to_string(folder.join(name)).unwrap());
    assert!(!steps.is_empty(), "{name} has no commands");
    let outputs = execute(&steps);
    for (step, output) in steps.iter().zip(&outputs) {
        let lines: Vec<_> = output.lines().collect();
        assert!(
            all_match(&step.expected, &lines),
            "{name}: $ {}\nexpected:\n{}\ngot:\n{output}",
            step.command,
            step.expected.join("\n")
        );
    }
    assert_eq!(
        outputs.len(),
        steps.len() + 1,
        "{name}: the shell ended early"
    );
}

#[test]
fn a_newcomer_sees_it_work() {
    check("newcomer.md");
}

#[test]
fn a_developer_registers_sessions() {
    check("developer.md");
}

#[test]
fn an_unprivileged_user_learns_what_is_missing() {
    check("container.md");
}

#[test]
fn patterns_match_text_and_lines() {
    assert!(matches("a [..] c[..]", "a b b c"));
    assert!(!matches("a [..] d", "a b c"));
    let patterns = ["x", "...", "z"].map(str::to_owned);
    assert!(all_match(&patterns, &["x", "y", "y", "z"]) && all_match(&patterns, &["x", "z"]));
    assert!(!all_match(&patterns, &["x", "z", "w"]));
}
