//! The alerts about a daemon that is damaged: descriptors that are short, a monitor that hangs, a worker that
//! ends, and a loop that panics.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::Launch;
use reaper_tests::expect::root_with;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{Deadline, eventually, within};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::alerts::{ALERT_WITHIN, Scraped, fast_rules, short_of_descriptors};
use crate::over_tcp;
use crate::page::Page;
use crate::prometheus::Prometheus;
use crate::tools::promtool;

/// So many descriptors are enough to accept the connection of a scrape and to read `/proc/self`.
const FOR_A_SCRAPE: u64 = 4;
/// How often it is tried to stop the loop without the metrics.
const ATTEMPTS: usize = 5;
/// The interval of [`short_of_descriptors`].
const SWEEP: Duration = Duration::from_millis(250);

/// Limits the descriptors of a daemon's worker to so many of those that it may have.
fn limit_descriptors(scraped: &Scraped, count: u64, maximum: u64) {
    let worker = Pid::from_raw(scraped.daemon.pid().cast_signed());
    let limit = Rlimit {
        current: Some(count.min(maximum)),
        maximum: Some(maximum),
    };
    prlimit(worker, Resource::Nofile, limit).unwrap();
}

/// How many descriptors the worker has open.
fn open_descriptors(scraped: &Scraped) -> u64 {
    let folder = format!("/proc/{}/fd", scraped.daemon.pid());
    std::fs::read_dir(folder).unwrap().count() as u64
}

#[test]
fn short_descriptors_are_an_alert_and_so_are_checks_that_fail_for_lack_of_them() {
    if promtool().is_none() || !root_with(&[]) {
        return;
    }
    let short = short_of_descriptors();
    let Some(prometheus) = Prometheus::start(&[("reaperd", &[short.port])], &fast_rules()) else {
        return;
    };
    // More than it can pin: the sweep opens files to check the others.
    let living = Crowd::start(60).unwrap();
    short.daemon.register_all(living.pids());
    short.is_scraped(&prometheus);
    for alert in ["ReaperdDescriptorsShort", "ReaperdVerdictsUnknown"] {
        assert!(prometheus.firing(alert).is_empty(), "{alert}");
    }
    let usual = Page::of(&short.daemon).value("process_max_fds");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let limit = |count: u64| limit_descriptors(&short, count, usual as u64);
    let open = open_descriptors(&short);
    limit(open + FOR_A_SCRAPE);
    short.fires(&prometheus, "ReaperdDescriptorsShort");
    // None is left for the sweep, and for a scrape neither.
    limit(0);
    thread::sleep(SWEEP * 4);
    limit(open + FOR_A_SCRAPE);
    short.fires(&prometheus, "ReaperdVerdictsUnknown");
    limit(u64::MAX);
    short.stops(&prometheus, "ReaperdDescriptorsShort");
    short.stops(&prometheus, "ReaperdVerdictsUnknown");
    assert_eq!(short.daemon.list().len(), 60, "all sessions are kept");
    short.daemon.stop();
}

#[test]
fn a_loop_that_waits_for_its_monitor_is_an_alert_and_so_is_a_worker_that_is_replaced() {
    if promtool().is_none() || !root_with(&[]) {
        return;
    }
    let flags: Vec<_> =
        "--user 2001 --allow-uid 0 --sources pidfd --sweep-interval 60s --metrics-listen 0"
            .split(' ')
            .collect();
    let stuck = Scraped::of(Launch::with(&flags).for_user(2001).start());
    let restarted = Scraped::start(&["--sources", "pidfd"]);
    let panicking = Scraped::start(&["--sources", "pidfd"]);
    let has_panicked = Arc::new(AtomicBool::new(false));
    let shown = with_a_panic(panicking.port, has_panicked.clone());
    let ports = [stuck.port, restarted.port, shown];
    let Some(prometheus) = Prometheus::start(&[("reaperd", &ports)], &fast_rules()) else {
        return;
    };
    stuck.is_scraped(&prometheus);
    restarted.is_scraped(&prometheus);
    for alert in [
        "ReaperdLoopStuck",
        "ReaperdLoopRestarted",
        "ReaperdRestarts",
    ] {
        assert!(prometheus.firing(alert).is_empty(), "{alert}");
    }
    let is_stuck = (0..ATTEMPTS).any(|_| stop_the_loop(&stuck, &prometheus));
    assert!(is_stuck, "{}", stuck.daemon.log());
    stuck.fires(&prometheus, "ReaperdLoopStuck");
    stuck.daemon.signal(Signal::CONT);
    eventually("all are removed", || stuck.daemon.list().is_empty());
    has_panicked.store(true, Ordering::Relaxed);
    let loop_restarted = || !prometheus.firing("ReaperdLoopRestarted").is_empty();
    within(ALERT_WITHIN, "ReaperdLoopRestarted fires", loop_restarted);
    restarted.daemon.signal_worker(Signal::KILL);
    restarted.fires(&prometheus, "ReaperdRestarts");
    stuck.stops(&prometheus, "ReaperdLoopStuck");
    restarted.stops(&prometheus, "ReaperdRestarts");
    within(ALERT_WITHIN, "ReaperdLoopRestarted stops", || {
        !loop_restarted()
    });
    for scraped in [stuck, restarted, panicking] {
        scraped.daemon.stop();
    }
}

/// Stops the monitor, which the loop needs for the exit status of another user's process. Returns whether the
/// loop waits for it, and hints for the loop, while metrics are served; otherwise all is as before. The thread
/// that waits may be the one that was to serve metrics next.
fn stop_the_loop(scraped: &Scraped, prometheus: &Prometheus) -> bool {
    let daemon = &scraped.daemon;
    let mut first = TestProcess::start();
    daemon.register("first", first.pid());
    let mut others: Vec<_> = (0..20).map(|_| Crowd::start(1).unwrap()).collect();
    daemon.register_all(others.iter().flat_map(Crowd::pids));
    daemon.signal(Signal::STOP);
    first.kill();
    let waiting = format!(
        "reaperd_hints_waiting{{instance=\"127.0.0.1:{}\"}} > 0",
        scraped.port
    );
    let deadline = Deadline::after(Duration::from_secs(4));
    while !deadline.has_passed() {
        // A further death: the loop may have taken all hints so far before it stopped.
        drop(others.pop());
        if !prometheus.query(&waiting).is_empty() {
            return true;
        }
        thread::sleep(SWEEP);
    }
    daemon.signal(Signal::CONT);
    drop(others);
    eventually("all are removed", || daemon.list().is_empty());
    false
}

/// Shows the metrics of a daemon with one change: its loop panics once. No fault from outside makes a real
/// loop do so. Returns the port of that page.
fn with_a_panic(of_daemon: u16, has_panicked: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let page = over_tcp(of_daemon, "GET /metrics", "Accept: text/plain\r\n");
            let count = "\nreaperd_loop_restarts_total ";
            assert!(page.contains(&format!("{count}0\n")), "{page}");
            // Of the same length.
            let panics = u8::from(has_panicked.load(Ordering::Relaxed));
            let page = page.replace(&format!("{count}0"), &format!("{count}{panics}"));
            (&stream).write_all(page.as_bytes()).unwrap_or_default();
        }
    });
    port
}
