//! `reaperd watch --exec`: what a command gets, and when it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use reaper_tests::daemon::{TestDaemon, private_folder};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{eventually, eventually_some};
use rustix::process::{Pid, Signal, kill_process};

use super::following::{STOPPED, exit_code, status, watch};
use super::*;

/// Waits until the file has so many lines.
fn lines_of(file: &Path, count: usize) -> Vec<String> {
    eventually_some("the commands have run", || {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
}

#[test]
fn a_command_gets_each_event_in_order_and_neither_descriptors_nor_secrets() {
    let daemon = daemon();
    let folder = private_folder();
    let file = folder.path().join("out");
    let script = folder.path().join("script");
    // Each event of one session takes long enough for the next one to overtake it, if it could.
    let text = format!(
        "#!/bin/sh\nevent=$(cat)\nls /proc/self/fd >{0}.$$\nfds=$(tr '\\n' ' ' <{0}.$$)\nsleep 0.1\n\
         echo \"$event|$fds|$CLAUDEMESH_IPC_TOKEN$REAPERD_TOKEN_FILE|end\" >>{0}\n",
        file.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = command(&["watch", "--json", "--filter", "session=s-1", "--exec"]);
    set_environment(&mut command, &daemon);
    command
        .arg(&script)
        .env("CLAUDEMESH_IPC_TOKEN", "secret")
        .env("REAPERD_TOKEN_FILE", "/secret");
    let mut watch = Launched::start(&mut command);
    assert_eq!(json(&watch.line())["event"], "listening");
    let process = TestProcess::start();
    for _ in 0..3 {
        daemon.register("s-1", process.pid());
        run(&daemon, &["rm", "s-1"]).done();
    }
    let lines = lines_of(&file, 6);
    let mut last = 0;
    for line in &lines {
        let (event, rest) = line.split_once('|').unwrap();
        let event = json(event);
        let seq = event["data"]["seq"].as_u64().unwrap();
        assert!(seq > last, "one after the other, in their order: {lines:?}");
        last = seq;
        // 3 is the folder that `ls` reads.
        assert_eq!(rest, "0 1 2 3 ||end", "{line}");
    }
    daemon.stop();
    assert_eq!(exit_code(watch), Some(STOPPED));
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_what_it_started() {
    let daemon = daemon();
    let folder = private_folder();
    let file = folder.path().join("pid");
    let script = format!("sleep 600 & echo $! >>{}; wait", file.display());
    let arguments = [
        "--filter",
        "session=s-1",
        "--exec-timeout",
        "100ms",
        "--exec",
        &script,
    ];
    let watch = watch(&daemon, &arguments);
    let process = TestProcess::start();
    daemon.register("s-1", process.pid());
    let pid = lines_of(&file, 1)[0].clone();
    eventually("it is killed", || is_gone(&pid));
    daemon.stop();
    assert_eq!(exit_code(watch), Some(STOPPED));
}

/// Starts a watch that runs `sleep` for the first event, with `event`s queued behind it, and returns the pid
/// of that command.
fn watch_with_a_running_command(daemon: &TestDaemon, file: &Path) -> (Launched, String) {
    let script = format!("echo $$ >>{}; exec sleep 600", file.display());
    let watch = watch(daemon, &["--filter", "session=s-1", "--exec", &script]);
    let process = TestProcess::start();
    daemon.register("s-1", process.pid());
    run(daemon, &["rm", "s-1"]).done();
    let pid = lines_of(file, 1)[0].clone();
    (watch, pid)
}

fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z")
}

#[test]
fn a_signal_ends_the_running_command_and_the_queue_with_the_watch() {
    let daemon = daemon();
    let folder = private_folder();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let file = folder.path().join(signal.as_raw().to_string());
        let (watch, pid) = watch_with_a_running_command(&daemon, &file);
        kill_process(Pid::from_child(&watch.child), signal).unwrap();
        assert_eq!(status(watch).signal(), Some(signal.as_raw()));
        eventually("the command is killed", || is_gone(&pid));
        assert_eq!(lines_of(&file, 1).len(), 1, "the queued event ran nothing");
    }
    daemon.stop();
}

#[test]
fn without_a_reader_the_running_command_ends_as_well() {
    let daemon = daemon();
    let folder = private_folder();
    let file = folder.path().join("pids");
    let (mut watch, pid) = watch_with_a_running_command(&daemon, &file);
    watch.close();
    assert_eq!(exit_code(watch), Some(0));
    assert!(is_gone(&pid), "killed before the watch ended");
    assert_eq!(lines_of(&file, 1).len(), 1, "the queued event ran nothing");
    daemon.stop();
}

#[test]
fn a_signal_ends_the_commands_also_after_the_daemon_has_stopped() {
    let daemon = daemon();
    let folder = private_folder();
    let file = folder.path().join("pids");
    let (mut watch, pid) = watch_with_a_running_command(&daemon, &file);
    daemon.stop();
    let last = watch.line_that(|line| json(line)["event"] == "end");
    assert_eq!(json(&last)["data"]["reason"], "shutdown");
    kill_process(Pid::from_child(&watch.child), Signal::TERM).unwrap();
    assert_eq!(status(watch).signal(), Some(Signal::TERM.as_raw()));
    assert!(is_gone(&pid), "killed before the watch ended");
}
