//! `reaperd top` on a real terminal.

use reaper_tests::daemon::private_folder;
use reaper_tests::terminal::Terminal;
use reaper_tests::test_process::TestProcess;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt as _;

use super::*;

fn top(daemon: &TestDaemon, arguments: &[&str]) -> Command {
    let mut command = command(&["top", "--interval", "0.1"]);
    set_environment(&mut command, daemon);
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command.args(arguments);
    command
}

#[test]
fn it_shows_what_happens_at_any_size_until_a_key_ends_it() {
    let daemon = daemon();
    let mut process = TestProcess::start();
    daemon.register("first-session", process.pid());
    let mut terminal = Terminal::start(80, 24, &top(&daemon, &[]));
    let pid = process.pid().to_string();
    terminal.shows(&["first-session", &pid, "sessions 1", "pidfd", "up", "q quit"]);
    for (columns, rows) in [(200, 50), (60, 20), (20, 5), (1, 1), (80, 24)] {
        terminal.resize(columns, rows);
        if columns >= 60 {
            terminal.shows(&["first-session", "SOURCE", "PER SECOND", "LOST", "DETECTION"]);
        }
    }
    daemon.register("second-session", std::process::id());
    terminal.shows(&["second-session", "sessions 2"]);
    process.kill();
    terminal.shows(&["ENDED", "killed by SIGKILL", "sessions 1"]);
    terminal.press("q");
    assert_eq!(terminal.ended().code(), Some(DONE));
    daemon.stop();
}

#[test]
fn other_keys_and_signals_end_it_and_leave_the_terminal_as_it_was() {
    let daemon = daemon();
    for keys in ["\u{1b}", "\u{3}"] {
        let mut terminal = Terminal::start(80, 24, &top(&daemon, &[]));
        terminal.shows(&["q quit"]);
        terminal.press(keys);
        assert_eq!(terminal.ended().code(), Some(DONE), "{keys:?}");
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut terminal = Terminal::start(80, 24, &top(&daemon, &[]));
        terminal.shows(&["q quit"]);
        terminal.signal(signal);
        let number = terminal.ended().signal();
        assert_eq!(number, Some(signal.as_raw()), "{signal:?}");
    }
    daemon.stop();
}

#[test]
fn it_says_that_the_daemon_is_gone_and_goes_on_with_the_next_one() {
    let daemon = daemon();
    daemon.register("of-the-first", std::process::id());
    let mut terminal = Terminal::start(80, 24, &top(&daemon, &[]));
    terminal.shows(&["of-the-first"]);
    // Its socket stays, so the command is what it was.
    let mut daemon = daemon;
    daemon.kill();
    terminal.shows(&["no daemon is listening on", "reconnecting", "of-the-first"]);
    let daemon = daemon.replaced_by(&launch());
    daemon.register("of-the-second", std::process::id());
    terminal.shows(&["of-the-second", "sessions 1"]);
    terminal.hides("reconnecting");
    terminal.hides("of-the-first");
    terminal.press("q");
    assert_eq!(terminal.ended().code(), Some(DONE));
    daemon.stop();
}

#[test]
fn colors_are_used_only_where_they_are_wanted() {
    let daemon = daemon();
    for (arguments, no_color, expected) in [
        (&[][..], false, true),
        (&["--color", "never"], false, false),
        (&[], true, false),
        (&["--color", "always"], true, true),
    ] {
        let mut command = top(&daemon, arguments);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let mut terminal = Terminal::start(80, 24, &command);
        terminal.shows(&["pidfd", "up", "q quit"]);
        assert_eq!(
            terminal.has_color(),
            expected,
            "{arguments:?} {no_color}\n{}",
            terminal.text()
        );
        terminal.press("q");
        assert_eq!(terminal.ended().code(), Some(DONE));
    }
    daemon.stop();
}

#[test]
fn without_a_terminal_a_daemon_or_a_usable_interval_it_fails_with_a_remedy() {
    let daemon = daemon();
    run(&daemon, &["top"]).failed(FAILED, "standard output is no terminal");
    for interval in ["0", "0.09", "-1", "4000", "soon", "NaN", "inf"] {
        let flag = format!("--interval={interval}");
        run(&daemon, &["top", &flag]).failed(USAGE, "from 0.1 to 3600");
    }
    let dumb = {
        let mut command = Command::new("env");
        set_environment(&mut command, &daemon);
        command.arg("TERM=dumb").arg(reaperd()).arg("top");
        command
    };
    let mut terminal = Terminal::start(80, 24, &dumb);
    assert_eq!(terminal.ended().code(), Some(FAILED));
    terminal.shows(&["TERM is dumb", "try: reaperd watch"]);

    let folder = private_folder();
    let socket = folder.path().join("s.sock");
    let mut command = command(&["top", "--socket"]);
    let mut terminal = Terminal::start(80, 24, command.arg(&socket));
    assert_eq!(terminal.ended().code(), Some(NO_DAEMON));
    terminal.shows(&["no daemon is listening on"]);
    daemon.stop();
}
