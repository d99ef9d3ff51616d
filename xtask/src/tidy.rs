//! `cargo xtask tidy`: the rules of the repository that no compiler or linter checks. Each message
//! says where, what and why. The rules look at what git tracks or would track, never at ignored
//! files, and know nothing of types: what needs those is clippy's.

mod dependencies;
mod links;
mod rust_code;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::ci::count;
use crate::command::{command, output, repo_root};

/// A text file of the repository.
struct File {
    /// From the root of the workspace, with `/`.
    path: String,
    text: String,
}

impl File {
    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|found| found == extension)
    }
}

/// A rule adds a sentence for each breach.
type Rule = fn(&File, &mut Vec<String>);

const RUST_RULES: &[Rule] = &[
    opens_with_its_purpose,
    is_short,
    fences_unsafe,
    leaves_nothing_open,
];
const TEXT_RULES: &[Rule] = &[
    names_no_machine,
    has_no_trailing_space,
    is_the_only_clippy_toml,
];

/// Enough for any file here with its tests; past it a reader no longer holds the file in mind.
const MAX_LINES: usize = 450;

/// Where `unsafe` may appear: the system-call fence, the probe, and the tests' own fence.
const UNSAFE_FENCES: &[&str] = &[
    "reaper-user/src/sys/",
    "reaper-ebpf/src/",
    "tests/src/harness/sys.rs",
    "tests/src/harness/sys/",
];

/// Code that must not be merged, and what to do instead.
const UNFINISHED: &[(&str, &str)] = &[
    (
        "todo!(",
        "it panics in production: write it or open an issue",
    ),
    (
        "unimplemented!(",
        "it panics in production: write it or open an issue",
    ),
    (
        "#[ignore",
        "an ignored test rots unseen: skip with a printed reason",
    ),
    (
        "#[allow(",
        "it outlives its cause: use `#[expect(.., reason = \"..\")]`",
    ),
    (
        "#![allow(",
        "it outlives its cause: use `#![expect(.., reason = \"..\")]`",
    ),
];

/// Folders that exist on one machine only. Split so that this file does not break its own rule.
const MACHINE_FOLDERS: &[&str] = &[concat!("/ro", "ot/"), concat!("/wo", "rk/")];

/// Bytes captured or produced by a program, which are kept as they were.
const VERBATIM: &[&str] = &[
    "/fixtures/",
    "/golden/",
    "/snapshots/",
    "/corpus/",
    "/crashes/",
];

pub(crate) fn run() -> Result<()> {
    let files = tracked_text_files()?;
    let mut problems = Vec::new();
    for file in &files {
        check_file(file, &mut problems);
    }
    links::check(&files, &mut problems);
    dependencies::check(&mut problems)?;
    if !problems.is_empty() {
        bail!(
            "{}\n  {}",
            count(problems.len(), "problem"),
            problems.join("\n  ")
        );
    }
    eprintln!("{} in order", count(files.len(), "file"));
    Ok(())
}

fn check_file(file: &File, problems: &mut Vec<String>) {
    let is_rust = file.has_extension("rs") && !file.text.starts_with("// @generated");
    let rust_rules = RUST_RULES.iter().filter(|_| is_rust);
    rust_rules
        .chain(TEXT_RULES)
        .for_each(|rule| rule(file, problems));
}

fn opens_with_its_purpose(file: &File, problems: &mut Vec<String>) {
    if !file.text.starts_with("//!") {
        let path = &file.path;
        problems.push(format!(
            "{path}: must open with `//!`: say what the file is and what it leaves to whom"
        ));
    }
}

fn is_short(file: &File, problems: &mut Vec<String>) {
    let lines = file.text.lines().count();
    if lines > MAX_LINES {
        let path = &file.path;
        problems.push(format!(
            "{path}: {lines} lines, at most {MAX_LINES}: a reader cannot hold more in mind; split it"
        ));
    }
}

fn fences_unsafe(file: &File, problems: &mut Vec<String>) {
    let File { path, text } = file;
    if UNSAFE_FENCES.iter().any(|fence| path.starts_with(fence)) {
        return;
    }
    for (number, line) in numbered(&rust_code::without_comments_and_literals(text)) {
        if rust_code::words(line).any(|word| word == "unsafe") {
            problems.push(format!(
                "{path}:{number}: `unsafe` belongs in {}: what can be unsound is in one place",
                UNSAFE_FENCES.join(", ")
            ));
        }
    }
}

fn leaves_nothing_open(file: &File, problems: &mut Vec<String>) {
    let File { path, text } = file;
    for (number, line) in numbered(&rust_code::without_comments_and_literals(text)) {
        for (code, why) in UNFINISHED {
            if line.contains(code) {
                problems.push(format!("{path}:{number}: no `{code}`: {why}"));
            }
        }
    }
}

fn names_no_machine(file: &File, problems: &mut Vec<String>) {
    let File { path, text } = file;
    for (number, line) in numbered(text) {
        for folder in MACHINE_FOLDERS {
            let starts_a_path = |&(at, _): &(usize, &str)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "/._-~$}*)>".contains(c))
            };
            if line.match_indices(folder).any(|hit| starts_a_path(&hit)) {
                problems.push(format!(
                    "{path}:{number}: `{folder}` is a path of one machine: nobody else has it"
                ));
            }
        }
    }
}

fn has_no_trailing_space(file: &File, problems: &mut Vec<String>) {
    let File { path, text } = file;
    let rooted = format!("/{path}");
    if VERBATIM.iter().any(|folder| rooted.contains(folder)) {
        return;
    }
    for (number, line) in text
        .split('\n')
        .zip(1..)
        .map(|(line, number)| (number, line))
    {
        if line.ends_with([' ', '\t', '\r']) {
            problems.push(format!(
                "{path}:{number}: trailing white space: noise in every diff"
            ));
        }
    }
}

fn is_the_only_clippy_toml(file: &File, problems: &mut Vec<String>) {
    let path = &file.path;
    let name = path.rsplit('/').next();
    if path != "clippy.toml" && matches!(name, Some("clippy.toml" | ".clippy.toml")) {
        problems.push(format!(
            "{path}: a second clippy.toml: clippy reads the nearest one alone and drops the root's \
             rules without a word"
        ));
    }
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

/// New files count before their first `git add`; deleted and binary ones do not.
fn tracked_text_files() -> Result<Vec<File>> {
    let root = repo_root()?;
    let args = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let paths = output(&mut command("git", &args)?).context("tidy asks git which files to read")?;
    let files = paths
        .split('\0')
        .filter(|path| !path.is_empty())
        .filter_map(|path| {
            let text = String::from_utf8(fs::read(root.join(path)).ok()?).ok()?;
            (!text.contains('\0')).then(|| File {
                path: path.to_owned(),
                text,
            })
        });
    Ok(files.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        let mut problems = Vec::new();
        check_file(
            &File {
                path: path.to_owned(),
                text: text.to_owned(),
            },
            &mut problems,
        );
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, start) in problems.iter().zip(expected) {
            assert!(
                problem.starts_with(start),
                "{problem:?} does not start with {start:?}"
            );
        }
    }

    #[test]
    fn a_tidy_file_passes() {
        check(
            "registry/src/lib.rs",
            "//! What it is.\n\nfn main() {}\n",
            &[],
        );
    }

    #[test]
    fn a_file_without_purpose_is_a_breach_unless_generated() {
        check("a.rs", "fn main() {}\n", &["a.rs: must open with `//!`"]);
        check("a.rs", "// @generated by bindgen\nfn main() {}\n", &[]);
        check("a.md", "A text.\n", &[]);
    }

    #[test]
    fn a_long_file_is_a_breach() {
        check(
            "a.rs",
            &format!("//! A.\n{}", "\n".repeat(MAX_LINES - 1)),
            &[],
        );
        check(
            "a.rs",
            &format!("//! A.\n{}", "\n".repeat(MAX_LINES)),
            &["a.rs: 451 lines"],
        );
    }

    #[test]
    fn unsafe_outside_its_fences_is_a_breach() {
        let text = "//! A.\nfn a() { unsafe { b() } }\n";
        check(
            "reaper-user/src/reaper.rs",
            text,
            &["reaper-user/src/reaper.rs:2: `unsafe`"],
        );
        check("tests/src/lib.rs", text, &["tests/src/lib.rs:2: `unsafe`"]);
        check("reaper-user/src/sys/pidfd.rs", text, &[]);
        check("tests/src/harness/sys/seccomp.rs", text, &[]);
        check("reaper-ebpf/src/main.rs", text, &[]);
        check(
            "a.rs",
            "//! A.\n#![forbid(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";\n",
            &[],
        );
    }

    #[test]
    fn unfinished_code_is_a_breach() {
        check(
            "a.rs",
            "//! A.\nfn a() { todo!() }\n",
            &["a.rs:2: no `todo!(`"],
        );
        check(
            "a.rs",
            "//! A.\nfn a() { unimplemented!() }\n",
            &["a.rs:2: no `unimplemented!(`"],
        );
        check(
            "a.rs",
            "//! A.\n#[test]\n#[ignore]\nfn a() {}\n",
            &["a.rs:3: no `#[ignore`"],
        );
        check(
            "a.rs",
            "//! A.\n#[allow(dead_code)]\nfn a() {}\n",
            &["a.rs:2: no `#[allow(`"],
        );
        check(
            "a.rs",
            "//! A.\n#![allow(dead_code)]\n",
            &["a.rs:2: no `#![allow(`"],
        );
        check("a.rs", "//! A.\n// never todo!() here\n", &[]);
    }

    #[test]
    fn a_path_of_one_machine_is_a_breach() {
        for folder in MACHINE_FOLDERS {
            check("a.md", &format!("see {folder}notes\n"), &["a.md:1: "]);
            check("a.md", &format!("see (`{folder}notes`)\n"), &["a.md:1: "]);
            check(
                "a.md",
                &format!("see https://example.org{folder}notes\n"),
                &[],
            );
        }
    }

    #[test]
    fn trailing_white_space_is_a_breach_except_in_captured_bytes() {
        check("a.md", "a \nb\n", &["a.md:1: trailing"]);
        check("a.md", "a\nb\r\n", &["a.md:2: trailing"]);
        check("a.md", "a\n\t", &["a.md:2: trailing"]);
        check("tests/fixtures/request.http", "GET / HTTP/1.1\r\n", &[]);
        check("tests/fuzz/corpus/http_head/get", "GET / HTTP/1.1\r\n", &[]);
    }

    #[test]
    fn a_second_clippy_toml_is_a_breach() {
        check("clippy.toml", "", &[]);
        check(
            "registry/clippy.toml",
            "",
            &["registry/clippy.toml: a second"],
        );
        check(".clippy.toml", "", &[".clippy.toml: a second"]);
    }
}
