//! What long commands show on a terminal while they work, and where they show nothing.

use reaper_tests::terminal::Terminal;

use super::*;

/// The only source that every system has.
const SELFTEST: [&str; 3] = ["selftest", "--sources", "pidfd"];

fn selftest(arguments: &[&str]) -> Command {
    let mut command = command(&[&SELFTEST, arguments].concat());
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

#[test]
fn a_terminal_shows_which_case_runs_until_the_end() {
    let mut terminal = Terminal::start(80, 24, &selftest(&[]));
    terminal.shows(&["pidfd: two hundred deaths at once", "/16"]);
    assert_eq!(terminal.ended().code(), Some(DONE), "{}", terminal.text());
    terminal.shows(&[" cases passed; ", "result: ok"]);
    terminal.hides("/16");
}

#[test]
fn a_pipe_json_and_a_terminal_without_colors_get_results_only() {
    let output = CommandOutput::of(&mut selftest(&["--json"])).done();
    assert_eq!(json(&output)["result"], "ok");
    // All that the terminal gets, from its start on.
    let log = tempfile::NamedTempFile::new().unwrap();
    let program = reaperd().display().to_string();
    for (arguments, expected) in [
        ("--color never", "result: ok\n"),
        ("--json", "}\n"),
        ("2>&1 | cat", "result: ok\n"),
    ] {
        let line = format!("{program} {} {arguments}", SELFTEST.join(" "));
        let mut script = Command::new("script");
        script
            .args(["--quiet", "--return", "--command", &line])
            .arg(log.path())
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        let text = script.output().unwrap().stdout;
        let text = String::from_utf8(text).unwrap().replace("\r\n", "\n");
        assert!(text.ends_with(expected), "{arguments}: {text}");
        for sign in ['\r', '\u{1b}'] {
            assert!(!text.contains(sign), "{arguments}: {text:?}");
        }
    }
}
