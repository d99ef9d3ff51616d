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

/// The commands that the help shows, with their names.
fn shown_commands() -> Vec<(String, clap::Command)> {
    let mut root = Arguments::command().disable_help_subcommand(true);
    root.build();
    let shown = root.get_subcommands().filter(|it| !it.is_hide_set());
    shown
        .map(|it| (it.get_name().to_owned(), it.clone()))
        .collect()
}

#[test]
fn the_help_of_each_command_has_exit_status_environment_and_examples() {
    for (name, mut command) in shown_commands() {
        let help = command.render_long_help().to_string();
        for part in ["Exit status:", "Environment", "Examples:"] {
            // These read no variable.
            let is_needed = part != "Environment" || !["token", "completions"].contains(&&*name);
            assert!(!is_needed || help.contains(part), "{name}: no {part}");
        }
        let (_, examples) = help.split_once("Examples:").unwrap();
        for line in examples.lines().filter(|it| it.contains("reaperd")) {
            let (_, words) = line.split_once("reaperd ").unwrap();
            let command = words.split(' ').next().unwrap();
            assert_eq!(command, name, "{line}");
        }
    }
}

#[test]
fn each_option_of_each_command_is_described_and_has_a_named_value() {
    for (name, command) in shown_commands() {
        for option in command.get_arguments().filter(|it| !it.is_hide_set()) {
            let id = option.get_id();
            let help = option.get_help().map(ToString::to_string);
            assert!(help.is_some_and(|it| !it.is_empty()), "{name}: {id}");
            let value = option.get_value_names().and_then(<[_]>::first);
            if option.get_action().takes_values() {
                assert!(value.is_some(), "{name}: {id}");
            }
        }
    }
}
