//! `reaperd wait`: exit codes of processes that are not its children, and of sessions.

mod several;
mod ways;

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};

use reaper_tests::daemon::{Requests, TestDaemon, private_folder};
use reaper_tests::scale::scaled;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{eventually, eventually_some};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Its end was seen, but not its exit status.
const UNKNOWN: i32 = 125;
const TIMED_OUT: i32 = 124;
/// The daemon keeps 4,096 events.
const MORE_THAN_KEPT: usize = 4_200;

/// Starts `reaperd wait` without a daemon.
fn wait_for(arguments: &[&str]) -> Child {
    let mut command = command(&["wait", "--json"]);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Whether this process holds a pidfd.
fn holds_pidfd(pid: u32) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .map(|it| it.to_string_lossy().into_owned())
        .any(|it| it.contains("pidfd"))
}

/// A process that exits with this code when its input ends.
fn exits_with(code: u8) -> Child {
    Command::new("sh")
        .args(["-c", "read line; exit \"$0\"", &code.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Ends the process and reaps it.
fn end(mut process: Child, signal: Option<i32>) -> ExitStatus {
    if let Some(signal) = signal {
        let signal = Signal::from_named_raw(signal).unwrap();
        kill_process(Pid::from_child(&process), signal).unwrap();
    }
    drop(process.stdin.take());
    process.wait().unwrap()
}

/// The signals that this process ignores, and thus its children too: SIGINT and SIGQUIT in a background job of a
/// shell.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(mask.unwrap().trim(), 16).unwrap()
}

/// Every way to end: exit codes, and signals that end a process.
fn endings() -> Vec<(Option<i32>, u8)> {
    let signals = [
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 29, 30, 31,
    ];
    let codes: Vec<u8> = (0..=255).step_by(scaled(1, 4)).collect();
    let codes = codes.into_iter().chain([
        1, 2, 3, 124, 125, 126, 127, 128, 129, 137, 143, 253, 254, 255,
    ]);
    let ignored = ignored();
    let ends = |signal: &i32| ignored >> (signal - 1) & 1 == 0;
    let signals = signals.into_iter().filter(ends);
    let signals = signals.map(|signal| (Some(signal), 0));
    codes.map(|code| (None, code)).chain(signals).collect()
}

#[test]
fn every_exit_code_and_signal_of_processes_that_are_not_children_is_returned() {
    if !keeps_exit_status() {
        println!("skipped: before Linux 6.15 the kernel keeps no exit status in a pidfd");
        return;
    }
    let endings = endings();
    let left_out = ignored().count_ones() as usize;
    assert!(endings.len() + left_out >= 100, "{}", endings.len());
    let mut right = 0;
    // Some at a time, or their memory is that of a thousand programs.
    for some in endings.chunks(scaled(40, 25)) {
        let started: Vec<_> = some
            .iter()
            .map(|(signal, code)| {
                let process = match signal {
                    Some(_) => Command::new("sh")
                        .args(["-c", "ulimit -c 0; exec sleep 600"])
                        .stdin(Stdio::piped())
                        .spawn()
                        .unwrap(),
                    None => exits_with(*code),
                };
                let waiter = wait_for(&[&process.id().to_string()]);
                (process, waiter, *signal, *code)
            })
            .collect();
        for (process, waiter, signal, code) in started {
            eventually("it waits", || holds_pidfd(waiter.id()));
            let pid = process.id();
            end(process, signal);
            let output = CommandOutput::by(waiter.wait_with_output().unwrap());
            let expected = signal.map_or(i32::from(code), |signal| 128 + signal);
            assert_eq!(output.code, Some(expected), "{signal:?} {code} {output:?}");
            let report = json(&output.out);
            assert_eq!(
                (&report["pid"], &report["cause"]),
                (&pid.into(), &"exited".into())
            );
            let (name, value) = signal.map_or(("code", i32::from(code)), |it| ("signal", it));
            assert_eq!(report["exit"][name], value, "{report}");
            assert_eq!(report["exit"]["from"], "kernel", "{report}");
            right += 1;
        }
    }
    println!("{right} processes, {right} right statuses");
}

/// Whether this kernel has the exit status in a pidfd.
fn keeps_exit_status() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|it| it.parse::<u32>().unwrap_or_default());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (6, 15)
}

#[test]
fn many_waiters_at_once_all_get_the_status() {
    let process = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = process.id().to_string();
    let mut waiters: Vec<_> = (0..scaled(1_000, 60)).map(|_| wait_for(&[&pid])).collect();
    for waiter in &waiters {
        eventually("it waits", || holds_pidfd(waiter.id()));
    }
    end(process, Some(9));
    for waiter in &mut waiters {
        let status = eventually_some("it ends", || waiter.try_wait().unwrap());
        assert_eq!(status.code(), Some(137));
    }
    println!("{} waiters, all with the status", waiters.len());
}

#[test]
fn the_time_limit_and_what_does_not_exist_have_codes_of_their_own() {
    let process = TestProcess::start();
    let pid = process.pid().to_string();
    let output = CommandOutput::of(&mut command(&["wait", "--timeout", "50ms", "--json", &pid]));
    assert_eq!(output.code, Some(TIMED_OUT), "{output:?}");
    assert_eq!(json(&output.out)["timed_out"], true);

    let ended = exits_with(0);
    let pid = ended.id().to_string();
    end(ended, None);
    CommandOutput::of(&mut command(&["wait", &pid])).failed(NO_SESSION, "there is no process");
    CommandOutput::of(&mut command(&["wait", "0"])).failed(USAGE, "is not the pid of a process");

    let daemon = daemon();
    run(&daemon, &["wait", "no-such"]).failed(NO_SESSION, "no session with id \"no-such\"");
    daemon.stop();
}

/// A session whose process exits with this code once its input ends.
fn session_that_exits_with(daemon: &TestDaemon, id: &str, code: u8) -> Child {
    let process = exits_with(code);
    daemon.register(id, process.id());
    process
}

/// Starts `reaperd wait` against this daemon.
fn start(daemon: &TestDaemon, arguments: &[&str]) -> Child {
    let mut command = command(&["wait", "--json"]);
    set_environment(&mut command, daemon);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_session_is_waited_for_by_its_id_and_by_its_token_and_after_its_end() {
    let daemon = daemon();
    let folder = private_folder();
    let file = folder.path().join("token");
    let process = session_that_exits_with(&daemon, "4711", 7);
    let token = Requests::token_of("4711", process.id());
    fs::write(&file, token.reveal().as_bytes()).unwrap();
    let file = file.to_str().unwrap();
    let others = TestProcess::start();
    for number in 0..MORE_THAN_KEPT {
        daemon.register(&format!("other-{number}"), others.pid());
    }
    let waiters = [&["--id", "4711"][..], &["--token-file", file]].map(|it| start(&daemon, it));
    for waiter in &waiters {
        eventually("it waits", || holds_pidfd(waiter.id()));
    }
    end(process, None);
    for waiter in waiters {
        let output = CommandOutput::by(waiter.wait_with_output().unwrap());
        assert_eq!(output.code, Some(7), "{output:?}");
        let report = json(&output.out);
        assert_eq!(report["session_id"], "4711", "{report}");
        assert_eq!(report["exit"]["code"], 7, "{report}");
    }
    eventually("the session is gone", || !daemon.lists("4711"));
    for late in [&["--id", "4711"][..], &["--token-file", file]] {
        let output = CommandOutput::by(start(&daemon, late).wait_with_output().unwrap());
        let seen = json(&output.out);
        // Whether the daemon has the status depends on its sources.
        let expected = if seen["exit"].is_null() { UNKNOWN } else { 7 };
        assert_eq!(output.code, Some(expected), "{output:?}");
        assert_eq!(seen["cause"], "exited", "{seen}");
    }
    daemon.stop();
}

#[test]
fn a_session_that_is_removed_or_replaced_has_no_status() {
    let daemon = daemon();
    let process = TestProcess::start();
    for (cause, sentence) in [
        ("requested", "was removed on request"),
        ("replaced", "was replaced"),
    ] {
        daemon.register("s-1", process.pid());
        let waiter = start(&daemon, &["s-1"]);
        eventually("it waits", || holds_pidfd(waiter.id()));
        let other = TestProcess::start();
        match cause {
            "requested" => drop(run(&daemon, &["rm", "s-1"]).done()),
            _ => drop(daemon.register("s-1", other.pid())),
        }
        let output = CommandOutput::by(waiter.wait_with_output().unwrap());
        assert_eq!(output.code, Some(UNKNOWN), "{output:?}");
        assert!(output.err.contains(sentence), "{output:?}");
        assert_eq!(json(&output.out)["cause"], cause, "{output:?}");
    }
    daemon.stop();
}

#[test]
fn waiting_goes_on_while_the_daemon_restarts() {
    let daemon = daemon();
    let process = session_that_exits_with(&daemon, "s-1", 9);
    let waiter = start(&daemon, &["s-1"]);
    eventually("it waits", || holds_pidfd(waiter.id()));
    for _ in 0..3 {
        let worker = daemon.pid();
        daemon.signal_worker(Signal::KILL);
        eventually("another worker serves", || {
            daemon.pid() != worker && daemon.get::<Value>("/v1/version").is_ok()
        });
    }
    let removed = session_that_exits_with(&daemon, "s-2", 0);
    let by_event = start(&daemon, &["s-2"]);
    eventually("it waits", || holds_pidfd(by_event.id()));
    end(process, None);
    let output = CommandOutput::by(waiter.wait_with_output().unwrap());
    assert_eq!(output.code, Some(9), "{output:?}");
    // What only an event tells arrives over the new stream.
    daemon.signal_worker(Signal::KILL);
    eventually("the session can be removed", || {
        run(&daemon, &["rm", "s-2"]).code == Some(DONE)
    });
    let output = CommandOutput::by(by_event.wait_with_output().unwrap());
    assert_eq!(output.code, Some(UNKNOWN), "{output:?}");
    assert_eq!(json(&output.out)["cause"], "requested", "{output:?}");
    end(removed, None);
    daemon.stop();
}

#[test]
fn a_daemon_that_has_forgotten_the_session_is_noticed() {
    let launch = launch();
    let daemon = launch.start();
    let process = TestProcess::start();
    daemon.register("s-1", process.pid());
    let waiter = start(&daemon, &["s-1"]);
    eventually("it waits", || holds_pidfd(waiter.id()));
    let daemon = daemon.replaced_by(&launch);
    let output = CommandOutput::by(waiter.wait_with_output().unwrap());
    assert_eq!(output.code, Some(UNKNOWN), "{output:?}");
    assert_eq!(json(&output.out)["cause"], "lost", "{output:?}");
    daemon.stop();
}
