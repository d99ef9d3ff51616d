//! The counters show what was really done, no more and no less.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{eventually, eventually_some};
use reaperd::client::ClientError;
use serde_json::{Value, json};

use crate::page::Page;

/// How much each value of a metric has grown, without those that have not.
fn growth(before: &Page, after: &Page, name: &str) -> BTreeMap<String, f64> {
    let (before, after) = (before.all(name), after.all(name));
    let growth = after
        .iter()
        .map(|(labels, value)| ((*labels).to_owned(), value - before[labels]));
    growth.filter(|(_, growth)| *growth != 0.0).collect()
}

fn expected(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
    let owned = values
        .iter()
        .map(|(labels, value)| ((*labels).to_owned(), *value));
    owned.collect()
}

/// A daemon whose only source besides the sweep is the one that works for every user.
fn daemon() -> TestDaemon {
    Launch::with(&["--sources", "pidfd", "--sweep-interval", "60s"]).start()
}

#[test]
fn registrations_and_removals_are_counted_once_by_cause_and_source() {
    let daemon = daemon();
    let before = Page::of(&daemon);
    let mut dying = Crowd::start(7).unwrap();
    let living = TestProcess::start();
    let mut events = daemon.events();
    daemon.register_all(dying.pids());
    let kept = daemon.register("kept", living.pid());
    daemon.register("kept", living.pid()); // Renewed.
    daemon.register("ends", living.pid());
    let ttl = json!({ "ttl": 1 });
    let short = daemon
        .try_register_with("short", living.pid(), ttl)
        .unwrap();
    let replaced = json!({ "mesh": "other" });
    let other = TestProcess::start();
    daemon
        .try_register_with("kept", other.pid(), replaced)
        .unwrap();
    let _removed: Value = delete(&daemon, "/v1/sessions/by-id/ends");
    dying.kill().unwrap();
    let removed = dying.sessions();
    events.removals(removed.len() + 2);
    assert!(!daemon.accepts(&kept), "it was replaced");
    eventually("the ttl of a session is over", || !daemon.accepts(&short));

    let after = Page::of(&daemon);
    let grown = |name: &str| growth(&before, &after, name);
    assert_eq!(
        grown("reaperd_registrations_total"),
        expected(&[("", 11.0)])
    );
    assert_eq!(grown("reaperd_renewals_total"), expected(&[("", 1.0)]));
    let removals = [
        ("{cause=\"exited\",source=\"pidfd\"}", 7.0),
        ("{cause=\"expired\",source=\"none\"}", 1.0),
        ("{cause=\"replaced\",source=\"none\"}", 1.0),
        ("{cause=\"requested\",source=\"none\"}", 1.0),
    ];
    assert_eq!(grown("reaperd_removals_total"), expected(&removals));
    assert_eq!(after.value("reaperd_sessions"), 1.0);
    assert_eq!(after.value("reaperd_processes"), 1.0);
    assert_eq!(
        after.value("reaperd_share_used{resource=\"sessions\"}"),
        1.0
    );
    assert_eq!(after.value("reaperd_share_used{resource=\"pidfds\"}"), 1.0);
    daemon.stop();
}

fn delete(daemon: &TestDaemon, target: &str) -> Value {
    let client = daemon.client();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(client.delete(target)).unwrap()
}

#[test]
fn requests_are_counted_by_route_and_status_and_refusals_by_reason() {
    let daemon = daemon();
    let before = Page::of(&daemon);
    let living = TestProcess::start();
    let token = daemon.register("a", living.pid());
    for _ in 0..3 {
        assert!(daemon.accepts(&token));
    }
    for target in ["/v1/health", "/v1/version", "/v1/limits", "/v1/sources"] {
        daemon.get::<Value>(target).unwrap();
    }
    daemon.list();
    for target in [
        "/v1/nothing",
        "/v1/sessions/me",
        "/v1/sessions?limit=0",
        "/v1/peers",
    ] {
        daemon.get::<Value>(target).unwrap_err();
    }
    daemon.try_register("b", 1).unwrap_err();

    let after = Page::of(&daemon);
    let requests = [
        ("{route=\"register\",status=\"2xx\"}", 1.0),
        ("{route=\"register\",status=\"4xx\"}", 1.0),
        ("{route=\"resolve\",status=\"2xx\"}", 3.0),
        ("{route=\"resolve\",status=\"4xx\"}", 1.0),
        ("{route=\"health\",status=\"2xx\"}", 1.0),
        ("{route=\"version\",status=\"2xx\"}", 1.0),
        ("{route=\"limits\",status=\"2xx\"}", 1.0),
        ("{route=\"sources\",status=\"2xx\"}", 1.0),
        ("{route=\"list\",status=\"2xx\"}", 1.0),
        ("{route=\"list\",status=\"4xx\"}", 1.0),
        ("{route=\"metrics\",status=\"2xx\"}", 1.0),
        ("{route=\"other\",status=\"4xx\"}", 1.0),
        ("{route=\"other\",status=\"5xx\"}", 1.0),
    ];
    let grown = |name: &str| growth(&before, &after, name);
    assert_eq!(grown("reaperd_requests_total"), expected(&requests));
    let refusals = [
        ("{reason=\"invalid_pid\"}", 1.0),
        ("{reason=\"invalid_query\"}", 1.0),
        ("{reason=\"no_broker\"}", 1.0),
        ("{reason=\"no_session_token\"}", 1.0),
        ("{reason=\"not_found\"}", 1.0),
    ];
    assert_eq!(grown("reaperd_refusals_total"), expected(&refusals));
    daemon.stop();
}

#[test]
fn streams_and_gaps_are_counted() {
    let daemon = daemon();
    let client = daemon.client();
    let runtime = reaper_tests::daemon::runtime();
    let streams: Vec<_> = (0..3)
        .map(|_| runtime.block_on(client.events("")).unwrap())
        .collect();
    let page = Page::of(&daemon);
    assert_eq!(page.value("reaperd_share_used{resource=\"streams\"}"), 3.0);
    assert_eq!(
        page.value("reaperd_share_used{resource=\"connections\"}"),
        4.0
    );
    assert_eq!(
        page.value("reaperd_requests_total{route=\"events\",status=\"2xx\"}"),
        3.0
    );
    assert_eq!(page.value("reaperd_history_gaps_total"), 0.0);
    drop(streams);
    eventually("the streams have ended", || {
        Page::of(&daemon).value("reaperd_share_used{resource=\"streams\"}") == 0.0
    });
    // An event number of another daemon.
    let resumed = reaper_tests::raw_http::request("GET /v1/events", "Last-Event-ID: 1.1\r\n", "");
    crate::access::on_socket(&daemon, &resumed, "event: gap");
    assert_eq!(Page::of(&daemon).value("reaperd_history_gaps_total"), 1.0);
    daemon.stop();
}

#[test]
fn each_death_that_an_event_source_reports_is_in_its_histogram() {
    let daemon = Launch::with(&["--sources", "netlink", "--sweep-interval", "60s"]).start();
    if !daemon.has_source("netlink") {
        return daemon.stop();
    }
    let mut dying = Crowd::start(20).unwrap();
    let mut events = daemon.events();
    daemon.register_all(dying.pids());
    dying.kill().unwrap();
    let removals = events.removals(20);
    let page = Page::of(&daemon);
    let count = "reaperd_detection_seconds_count{source=\"netlink\"}";
    assert_eq!(page.value(count), 20.0);
    assert_eq!(page.sum("reaperd_detection_seconds_count"), 20.0);
    let sum = page.value("reaperd_detection_seconds_sum{source=\"netlink\"}");
    let longest = "reaperd_detection_seconds_bucket{source=\"netlink\",le=\"10\"}";
    assert!(
        page.value(longest) == 20.0 && sum > 0.0 && sum < 200.0,
        "{sum}"
    );
    assert_eq!(removals.len(), 20);
    daemon.stop();
}

#[test]
fn sweeps_are_counted_and_their_age_is_shown() {
    let daemon = Launch::with(&["--sources", "sweep", "--sweep-interval", "50ms"]).start();
    eventually("several sweeps are counted", || {
        Page::of(&daemon).value("reaperd_sweep_duration_seconds_count") >= 5.0
    });
    let page = Page::of(&daemon);
    assert_eq!(page.value("reaperd_sweep_interval_seconds"), 0.05);
    assert!(page.value("reaperd_sweep_age_seconds") < 10.0);
    assert_eq!(page.value("reaperd_degraded"), 0.0);
    assert_eq!(page.all("reaperd_source_up").len(), 1);
    daemon.stop();
}

#[test]
fn connections_without_a_place_are_counted_as_refused() {
    let flags = ["--sources", "pidfd", "--max-connections-per-uid", "8"];
    let daemon = Launch::with(&flags).start();
    // A connection whose request waits for its body is not idle, so that none is closed for another.
    let slow = "POST /v1/sessions/register HTTP/1.1\r\nHost: l\r\nContent-Length: 9\r\n\r\n";
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            stream.write_all(slow.as_bytes()).unwrap();
            stream
        })
        .collect();
    let mut refused = 0.0;
    eventually("several connections are refused", || {
        let request = reaper_tests::raw_http::request("GET /v1/version", "", "");
        let response = crate::access::on_socket(&daemon, &request, "\r\n\r\n");
        refused += f64::from(u8::from(response.starts_with("HTTP/1.1 429 ")));
        refused == 3.0
    });
    drop(busy);
    let page = eventually_some("a place is free", || {
        let result = Page::try_read(&daemon.client());
        let is_refused = matches!(result, Err(ClientError::Problem { status: 429, .. }));
        refused += f64::from(u8::from(is_refused));
        assert!(result.is_ok() || is_refused, "{result:?}");
        result.ok()
    });
    let counter = "reaperd_refusals_total{reason=\"too_many_connections\"}";
    assert_eq!(page.value(counter), refused);
    daemon.stop();
}
