//! The definition of the command line.

use super::*;
use clap::CommandFactory as _;

#[test]
fn definition_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn run_takes_the_rest_of_the_line_with_and_without_dashes() {
    for line in [
        "reaperd run --name n -- ls --json",
        "reaperd run --name n ls --json",
    ] {
        let Command::Run(run) = Arguments::parse_from(line.split(' ')).command else {
            panic!("{line} is not parsed as run");
        };
        assert_eq!(run.command, ["ls", "--json"]);
    }
}

#[test]
fn test_processes_are_started_by_a_command_that_exists() {
    let line = std::iter::once("reaperd".to_owned()).chain(Kind::Sleep.arguments());
    let command = Arguments::parse_from(line).command;
    assert!(matches!(
        command,
        Command::TestProcess { kind: Kind::Sleep }
    ));
}

#[test]
fn a_daemon_is_recognised_before_its_command_line_is_parsed() {
    for (line, expected) in [
        ("reaperd daemon --ttl never", true),
        ("reaperd --socket run daemon", true),
        ("reaperd --server-uid 7 daemon", true),
        ("reaperd --socket=x --color never daemon", true),
        ("reaperd run -- daemon", false),
        ("reaperd ls --socket daemon", false),
        ("reaperd --socket daemon", false),
        ("reaperd", false),
    ] {
        let words = line.split(' ').map(OsString::from);
        assert_eq!(starts_daemon(words), expected, "{line}");
    }
}

#[test]
fn the_exit_codes_in_the_help_are_distinct_and_sorted() {
    let numbers = ExitCode::ALL.map(|(code, _)| code.number());
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}
