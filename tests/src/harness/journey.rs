//! The transcripts of docs/journeys: each is executed, and what it shows must be what happens.
//!
//! The lines that begin with `$ `, or `# ` for root, in the blocks `console` of a page run in one shell, in
//! order. What follows a command is its output, in which `[..]` stands for any text of a line and `...` for any
//! number of lines.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::Path;

/// What the shell prints behind the output of each command.
const MARK: &str = "\u{1}end of command";

/// A command and the output that the page shows.
struct Step {
    command: String,
    expected: Vec<String>,
}

/// The commands of one page.
pub struct Journey {
    name: String,
    steps: Vec<Step>,
}

impl Journey {
    /// Reads a page of docs/journeys.
    pub fn read(name: &str) -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/journeys");
        let steps = steps(&fs::read_to_string(page.join(name)).unwrap());
        assert!(!steps.is_empty(), "{name} has no commands");
        let name = name.to_owned();
        Self { name, steps }
    }

    /// Returns a script for bash that runs the page. Background jobs of the page end with it.
    pub fn script(&self) -> String {
        let lines = self
            .steps
            .iter()
            .map(|step| format!("{{ {}\n}} 2>&1\necho '{MARK}'\n", step.command));
        format!(
            "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{}",
            lines.collect::<String>()
        )
    }

    /// Compares what the script has printed with the page.
    pub fn check(&self, printed: &str) {
        let Self { name, steps } = self;
        let outputs: Vec<_> = printed.split(&format!("{MARK}\n")).collect();
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
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_block = false;
    for line in page.lines() {
        let command = line.strip_prefix("$ ").or(line.strip_prefix("# "));
        match (in_block, command) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_text_and_lines() {
        assert!(matches("a [..] c[..]", "a b b c"));
        assert!(!matches("a [..] d", "a b c"));
        let patterns = ["x", "...", "z"].map(str::to_owned);
        assert!(all_match(&patterns, &["x", "y", "y", "z"]) && all_match(&patterns, &["x", "z"]));
        assert!(!all_match(&patterns, &["x", "z", "w"]));
    }

    #[test]
    fn a_page_whose_output_differs_fails() {
        let journey = Journey {
            name: "page".to_owned(),
            steps: steps("```console\n$ echo a\na\n# echo b\nb\n```\n"),
        };
        assert_eq!(journey.steps.len(), 2);
        journey.check(&format!("a\n{MARK}\nb\n{MARK}\n"));
        for other in [
            format!("a\n{MARK}\nc\n{MARK}\n"),
            format!("a\nfurther\n{MARK}\nb\n{MARK}\n"),
            format!("a\n{MARK}\n"),
        ] {
            let outcome = std::panic::catch_unwind(|| journey.check(&other));
            assert!(outcome.is_err(), "{other}");
        }
    }
}
