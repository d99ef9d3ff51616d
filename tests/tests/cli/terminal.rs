//! What a terminal gets: lines that fit it, and colors where they are wanted. The commands run on a real
//! pseudo-terminal, made by script(1).

use super::*;

/// Runs a command line on a terminal of this width. Returns all that the terminal gets.
fn on_terminal(
    daemon: &TestDaemon,
    width: usize,
    line: &str,
    environment: &[(&str, &str)],
) -> String {
    let program = reaperd().display();
    // Without a height the size counts as unknown.
    let line = format!("stty columns {width} rows 24; {program} {line}");
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::null());
    set_environment(&mut script, daemon);
    set_colors(&mut script, environment);
    let output = script.output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

fn set_colors(command: &mut Command, environment: &[(&str, &str)]) {
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command.envs(environment.iter().copied());
}

/// Removes the escape sequences for colors.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        let (_sequence, rest) = part.split_once('m').expect("a sequence ends with m");
        plain + rest
    })
}

fn check_widths(text: &str, width: usize, line: &str) {
    for shown in text.lines() {
        let words = shown.split_whitespace().count();
        assert!(
            shown.chars().count() <= width || words == 1,
            "{line}: wider than {width}: {shown:?}"
        );
    }
}

#[test]
fn no_line_is_wider_than_the_terminal_and_no_word_is_broken() {
    let daemon = daemon();
    let words = |text: &str| {
        let words = text.split_whitespace().map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let missing = "/nowhere/at/all/and/deeper/reaperd.sock";
    let unused = format!("ls --socket {missing}");
    for line in [
        "--help",
        "daemon --help",
        "run --help",
        "doctor --help",
        "status --help",
        "ls --socket /etc/passwd",
        &unused,
        "ls --no-such-option-exists-here --color auto and some more words on the line",
    ] {
        let [wide, middle, narrow] = [200, 80, 60].map(|width| {
            let text = plain(&on_terminal(&daemon, width, line, &[]));
            check_widths(&text, width, line);
            words(&text)
        });
        assert!(wide.len() > 5, "{line}: {wide:?}");
        assert_eq!(middle, wide, "{line}");
        assert_eq!(narrow, wide, "{line}");
    }
    daemon.stop();
}

#[test]
fn tables_and_reports_fit_a_narrow_terminal() {
    let daemon = daemon();
    let id = "a-session-with-a-name";
    daemon.register(id, std::process::id());
    for width in [60, 80, 200] {
        for (line, part) in [("ls", id), ("status", "pids"), ("doctor", "result: ok")] {
            let text = plain(&on_terminal(&daemon, width, line, &[]));
            check_widths(&text, width, line);
            assert!(text.contains(part), "{line}: {text}");
        }
    }
    // At 60 columns the table needs two lines a row, at 200 one.
    let rows = |width| {
        plain(&on_terminal(&daemon, width, "ls", &[]))
            .lines()
            .count()
    };
    assert_eq!((rows(60), rows(200)), (4, 2));
    daemon.stop();
}

#[test]
fn colors_are_used_where_they_are_wanted() {
    let daemon = daemon();
    daemon.register("s-1", std::process::id());
    for line in ["--help", "ls --no-such-option", "status", "ls"] {
        for (flag, environment, expected) in [
            ("", &[][..], true),
            ("--color never", &[], false),
            ("--color=always", &[("NO_COLOR", "1")], true),
            ("", &[("NO_COLOR", "1")], false),
            ("", &[("CLICOLOR", "0")], false),
            ("", &[("CLICOLOR", "0"), ("CLICOLOR_FORCE", "1")], true),
        ] {
            let text = on_terminal(&daemon, 80, &format!("{flag} {line}"), environment);
            assert_eq!(
                text.contains('\u{1b}'),
                expected,
                "{line} {flag} {environment:?}: {text}"
            );
        }
        for (flag, environment, expected) in [
            ("--color=auto", &[][..], false),
            ("--color=always", &[], true),
            ("--color=auto", &[("CLICOLOR_FORCE", "1")], true),
            (
                "--color=auto",
                &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")],
                false,
            ),
            ("--color=never", &[("CLICOLOR_FORCE", "1")], false),
        ] {
            // A table in a pipe has no header, so nothing in it has a color.
            if line == "ls" {
                continue;
            }
            let words: Vec<_> = [flag].into_iter().chain(line.split(' ')).collect();
            let mut command = command(&words);
            set_environment(&mut command, &daemon);
            set_colors(&mut command, environment);
            let output = CommandOutput::of(&mut command);
            let text = format!("{}{}", output.out, output.err);
            assert_eq!(
                text.contains('\u{1b}'),
                expected,
                "{line} {flag} {environment:?}: {text}"
            );
        }
    }
    daemon.stop();
}
