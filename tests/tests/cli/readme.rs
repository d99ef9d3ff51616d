//! The commands of README.md, executed in one shell in their order. What its first two blocks do is in
//! docs/journeys/newcomer.md and in CI itself; packages are installed by `cargo xtask dist --check`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use reaper_tests::daemon::{has_program, private_folder};
use reaper_tests::expect::skip_without;

use super::*;

/// Printed before the exit status of each command.
const MARK: &str = "exit status of the command: ";
/// The session was removed while its process lives, so that `wait` has no exit status.
const UNKNOWN: &str = "125";

/// What the commands find: a server to run, and another process.
const BEFORE: &str = r#"
    trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
    printf '#!/bin/sh\nexec sleep 300\n' >node; chmod 700 node; PATH=$PWD:$PATH
    sleep 300 & OTHER=$!
    until_true() { for _ in {1..600}; do eval "$1" 2>/dev/null && return; sleep 0.05; done; return 1; }
"#;

fn readme() -> String {
    fs::read_to_string(workspace().join("README.md")).unwrap()
}

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The lines of a block that begin with `$ `, with those that continue them.
fn commands(page: &str) -> Vec<String> {
    let page = page.replace("\\\n", " ");
    let lines = page.lines().filter_map(|line| line.strip_prefix("$ "));
    lines.map(str::to_owned).collect()
}

/// A command with the names of this run, and what is waited for before the next one.
fn step(command: &str) -> String {
    let command = command
        .replace("SESSION_ID", "$ID")
        .replace("identify PID", "identify $RUN")
        .replace("PID", "$OTHER")
        .replace("FILE", "token");
    if command.starts_with("reaperd selftest") {
        // The suite `running` has it; all sources take half a minute.
        return "reaperd selftest --sources pidfd".to_owned();
    }
    // A comment ends the line.
    let (text, _) = command.split_once(" #").unwrap_or((&command, ""));
    let in_background = |wait: &str| format!("{text} >out 2>&1 & {wait}");
    if text.starts_with("reaperd daemon") {
        format!("{text}\nuntil_true 'reaperd status >status'")
    } else if text.starts_with("reaperd run") {
        in_background(
            "RUN=$!; until_true '[ -n \"$(reaperd ls --format ids)\" ]'; ID=$(reaperd ls --format ids)",
        )
    } else if text.starts_with("reaperd watch") {
        in_background("until_true 'grep -q listening out'")
    } else if text.starts_with("reaperd wait") {
        in_background("WAIT=$!")
    } else if text.starts_with("reaperd top") {
        // It needs a terminal, and the key that quits it.
        format!("printf q | script --quiet --return --command '{text}' /dev/null")
    } else if text.starts_with("reaperd rm") {
        format!("{text}; wait $WAIT; [ $? = {UNKNOWN} ]")
    } else if text.contains("/v1/events") {
        in_background("until_true 'grep -q connected out'; cat out")
    } else {
        text.to_owned()
    }
}

/// Runs a script in this folder, where the commands find this user's files. Background jobs end with it.
pub(crate) fn bash(script: &str, folder: &Path) -> String {
    let path = env::var("PATH").unwrap();
    let program = reaperd().parent().unwrap();
    let output = Command::new("bash")
        .args(["-c", &format!("{BEFORE}{script}")])
        .env("PATH", format!("{}:{path}", program.display()))
        .env("XDG_RUNTIME_DIR", folder)
        .env("HOME", folder)
        .env_remove("REAPERD_SOCKET")
        .env_remove("RUST_LOG")
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_first_two_commands_are_the_demo_and_the_tests() {
    let readme = readme();
    let mut blocks = readme.split("```console\n").skip(1);
    let mut first = || blocks.next().unwrap().split("```").next().unwrap();
    assert_eq!(first(), "cargo run --release -- demo\n");
    assert_eq!(first(), "cargo test --release\n");
}

#[test]
fn every_command_of_the_readme_works() {
    if !has_program("curl") {
        return skip_without("curl", "curl is not installed");
    }
    let commands = commands(&readme());
    assert!(commands.len() >= 15, "{commands:#?}");
    let run = |command: &String| {
        let step = step(command);
        format!("{{ {step}\n}} 2>&1\necho; echo '{MARK}'$?\n")
    };
    let script: String = commands.iter().map(run).collect();
    let folder = private_folder();
    let printed = bash(&script, folder.path());
    let outputs: Vec<_> = printed.split(MARK).collect();
    assert_eq!(outputs.len(), commands.len() + 1, "{printed}");
    for (at, command) in commands.iter().enumerate() {
        let status = outputs[at + 1].lines().next().unwrap();
        assert_eq!(status, "0", "{command}: {}", outputs[at]);
        for (part, expected) in [
            ("sessions/register", "{\"ok\":true"),
            ("sessions/me", "{\"session\":{\"sessionId\":\"s-1\""),
            ("reaperd identify", "run-"),
            ("reaperd show", "run-"),
        ] {
            let is_right = !command.contains(part) || outputs[at].contains(expected);
            assert!(is_right, "{command}: {}", outputs[at]);
        }
    }
}
