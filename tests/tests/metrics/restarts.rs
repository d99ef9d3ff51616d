//! What metrics show of workers that are replaced and of daemons that take over, and that the port stays.

use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;
use rustix::process::Signal;
use serde_json::Value;

use crate::page::Page;
use crate::{metrics_port, over_tcp};

const FLAGS: &[&str] = &["--sources", "pidfd", "--metrics-listen", "0"];

/// Kills the worker, and waits for the next one.
fn restart(daemon: &TestDaemon) {
    let worker = daemon.pid();
    daemon.signal_worker(Signal::KILL);
    eventually("another worker serves", || {
        let health = daemon.get::<Value>("/v1/health");
        health.is_ok_and(|health| health["pid"] != worker)
    });
}

#[test]
fn restarts_and_what_was_carried_over_are_shown_on_the_same_port() {
    let daemon = Launch::with(FLAGS).start();
    let port = metrics_port(&daemon);
    let living = TestProcess::start();
    daemon.register("a", living.pid());
    daemon.register("b", living.pid());
    for restarts in 1..=2 {
        restart(&daemon);
        let page = Page::of(&daemon);
        let value = |name: &str| page.value(name);
        assert_eq!(value("reaperd_restarts_total"), f64::from(restarts));
        assert_eq!(value("reaperd_sessions_carried_over_total"), 2.0);
        assert_eq!(value("reaperd_sessions"), 2.0);
        assert_eq!(value("reaperd_registrations_total"), 0.0, "none of its own");
        let over_tcp = over_tcp(port, "GET /metrics", "");
        assert!(over_tcp.contains("reaperd_restarts_total"), "{over_tcp}");
    }
    daemon.stop();
}

#[test]
fn a_successor_goes_on_with_the_port() {
    let mut daemon = Launch::with(FLAGS).start();
    let port = metrics_port(&daemon);
    for _ in 0..2 {
        daemon.hand_over_to(&Launch::with(&[FLAGS, &["--replace"]].concat()));
        let response = over_tcp(port, "GET /metrics", "");
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }
    // One whose configuration names none leaves it.
    daemon.hand_over_to(&Launch::with(&["--sources", "pidfd", "--replace"]));
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    daemon.stop();
}
