//! A registered process that starts and ends threads without pause must cost the daemon little: its
//! thread exits are merged, so that not each of them costs a wake-up and a check.

use std::fs;
use std::time::Duration;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::expect::{measured, skip};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::Deadline;
use reaperd::testkit::test_process::Kind;

/// Thread exits per second from which on the daemon must merge them. Ordinary machines reach twice
/// as many.
const CHURN: u64 = 20_000;
/// The least number of thread exits per wake-up of the daemon.
const MERGED: u64 = 5;
const WINDOW: Duration = Duration::from_secs(1);

#[test]
fn thread_exits_of_a_watched_process_are_merged() {
    let daemon = TestDaemon::start(&["--sweep-interval", "60s"]);
    if !daemon.has_source("netlink") {
        return daemon.stop();
    }
    let churning = TestProcess::spawn(Kind::ThreadChurn { threads: 4 });
    daemon.register("churning", churning.pid());
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
            measured("thread churn: exits per second", exits);
            measured("thread churn: wake-ups of the daemon per second", wake_ups);
            assert!(
                wake_ups * MERGED < exits,
                "{wake_ups} wake-ups for {exits} exits"
            );
        }
        None => skip(format_args!(
            "this machine ends fewer than {CHURN} threads per second"
        )),
    }
    assert!(daemon.lists("churning"), "a false death");
    daemon.stop();
}

/// Returns how many threads were started on this machine during the window, which is about as many
/// as ended, and how often the daemon was woken up.
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
