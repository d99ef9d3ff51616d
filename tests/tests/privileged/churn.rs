//! A registered process that starts and ends threads without pause must cost the daemon little: its
//! thread exits are merged before each of them costs a wake-up and a look.

use std::fs;
use std::time::Duration;

use reaper_tests::daemon::{TestDaemon, reaperd};
use reaper_tests::expect::{measured, skip};
use reaper_tests::wait::Deadline;
use reaperd::testkit::test_process::{Kind, TestProcess};

use super::works;

/// Threads that end in a second, from which on the daemon must merge them. Ordinary machines reach twice
/// that.
const CHURN: u64 = 20_000;
/// Thread exits for each wake-up of the daemon, at least.
const MERGED: u64 = 5;
const WINDOW: Duration = Duration::from_secs(1);

#[test]
fn thread_exits_of_one_process_do_not_wake_the_daemon_each() {
    let daemon = TestDaemon::start(&["--sweep-interval", "60s"]);
    if !works(&daemon, "netlink") {
        return daemon.stop();
    }
    let churning = TestProcess::spawn(reaperd(), Kind::ThreadChurn { threads: 4 }).unwrap();
    daemon.register("churning", churning.pid().get());
    let deadline = Deadline::after(Duration::from_secs(30));
    let found = loop {
        let (exits, wake_ups) = over_a_window(daemon.pid());
        if exits >= CHURN {
            break Some((exits, wake_ups));
        }
        if deadline.has_passed() {
            break None;
        }
    };
    match found {
        Some((exits, wake_ups)) => {
            measured("thread churn: exits in a second", exits);
            measured("thread churn: wake-ups of the daemon", wake_ups);
            assert!(
                wake_ups * MERGED < exits,
                "{wake_ups} wake-ups for {exits} exits"
            );
        }
        None => skip(format_args!(
            "fewer than {CHURN} threads end in a second here"
        )),
    }
    assert!(daemon.lists("churning"), "it lives");
    daemon.stop();
}

/// How many threads ended on this machine, by how many started, and how often the daemon was woken.
fn over_a_window(daemon: u32) -> (u64, u64) {
    let (started, woken) = (threads_started(), wake_ups_of(daemon));
    let window = Deadline::after(WINDOW);
    while !window.has_passed() {
        std::thread::sleep(window.left());
    }
    (threads_started() - started, wake_ups_of(daemon) - woken)
}

/// `processes` of `/proc/stat` counts threads too (proc(5)).
fn threads_started() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("processes "));
    line.unwrap().parse().unwrap()
}

fn wake_ups_of(process: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok())
        .filter_map(|status| {
            let line = |line: &str| {
                line.strip_prefix("voluntary_ctxt_switches:")?
                    .trim()
                    .parse::<u64>()
                    .ok()
            };
            status.lines().find_map(line)
        })
        .sum::<u64>()
}
