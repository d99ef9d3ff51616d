//! The manual and the completion scripts against the program that they describe.

use std::fs;

use super::*;

/// The numbers of the signals in a mask of /proc/PID/status.
fn signals_in(pid: u32, field: &str) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let mask = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    (1..=31)
        .filter(|signal| mask >> (signal - 1) & 1 == 1)
        .collect()
}

#[test]
fn the_manual_lists_each_signal_that_monitor_and_worker_handle() {
    let daemon = daemon();
    let page = run(&daemon, &["man"]).done();
    let names = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (10, "SIGUSR1"),
        (12, "SIGUSR2"),
        (15, "SIGTERM"),
        (17, "SIGCHLD"),
    ];
    // Caught by Rust's runtime, for its message about a stack overflow.
    let of_runtime = [7, 11];
    let mut handled = signals_in(daemon.started(), "SigBlk:");
    handled.extend(signals_in(daemon.pid(), "SigCgt:"));
    assert!(handled.contains(&15), "{handled:?}");
    for signal in handled.into_iter().filter(|it| !of_runtime.contains(it)) {
        let name = names.iter().find(|(number, _)| *number == signal);
        let (_, name) = name.unwrap_or_else(|| panic!("signal {signal} has no name here"));
        assert!(page.contains(name), "{name} is not in reaperd(8)");
    }
    daemon.stop();
}

/// The commands of the help.
fn commands() -> Vec<String> {
    let help = CommandOutput::of(&mut command(&["--help"])).done();
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let is_name = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let names = list.lines().filter(is_name);
    let names: Vec<_> = names
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

#[test]
fn each_completion_script_offers_the_commands() {
    for (shell, part) in [
        ("bash", "complete -F _reaperd"),
        ("zsh", "#compdef reaperd"),
        ("fish", "complete -c reaperd"),
    ] {
        let script = CommandOutput::of(&mut command(&["completions", shell])).done();
        assert!(script.contains(part), "{shell}: {script}");
        for name in commands() {
            assert!(script.contains(&name), "{shell}: {name}");
        }
    }
    // What bash does at a press of the tab key behind `reaperd sta`.
    let program = reaperd().display();
    let line = format!(
        "source <({program} completions bash); COMP_WORDS=(reaperd sta); COMP_CWORD=1; \
         _reaperd reaperd sta reaperd; echo \"${{COMPREPLY[@]}}\""
    );
    let output = CommandOutput::of(Command::new("bash").args(["-c", &line]));
    assert_eq!(output.done().trim(), "status");
}

#[test]
fn pages_are_written_into_a_folder_and_a_missing_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    CommandOutput::of(&mut command(&["man", "--dir", dir])).done();
    assert!(folder.path().join("reaperd.8").exists());
    assert!(folder.path().join("reaperd-daemon.8").exists());
    let output = CommandOutput::of(&mut command(&["man", "--dir", "/nowhere/at-all"]));
    output.failed(FAILED, "cannot write /nowhere/at-all/reaperd.8");
}
