//! How long sessions last, who may use a token, and what a token of an ended session gets.

use std::process::{Command, Stdio};
use std::time::Duration;

use reaperd::testkit::clock::{Deadline, monotonic_ns};
use reaperd::{Source, Sources};
use serde_json::{Value, json};

use super::fixture::{Daemon, Events, TestProcess, events_in, eventually};

const TTL: Duration = Duration::from_secs(1);

/// A daemon with a default ttl of one second.
fn with_short_ttl() -> Daemon {
    Daemon::with(|options| {
        options.ttl = Some(TTL);
        options.sweep_interval = Duration::from_millis(100);
    })
}

/// The granted ttl in milliseconds.
fn granted_ms(response: &Value) -> u64 {
    response["expires_at"].as_u64().unwrap() - response["registered_at"].as_u64().unwrap()
}

#[test]
fn a_session_with_the_ttl_process_outlasts_the_default_ttl() {
    let daemon = with_short_ttl();
    let test_process = TestProcess::start();
    let (_, response) = daemon.register(1, "default", test_process.pid());
    assert_eq!(granted_ms(&response), 1_000);
    let (_, response) =
        daemon.register_with(2, "stays", test_process.pid(), json!({"ttl": "process"}));
    assert_eq!(response["expires_at"], Value::Null);
    let (_, shown) = daemon.me(2);
    assert_eq!(shown["session"]["expiresAt"], Value::Null);
    eventually("the default ttl is over", || daemon.listed() == ["stays"]);
    assert_eq!(daemon.me(2).0, 200);
    let (status, problem) = daemon.me(1);
    assert_eq!((status, &problem["cause"]), (401, &json!("expired")));
    drop(test_process);
    eventually("it ends with its process", || daemon.listed().is_empty());
    daemon.stop();
}

#[test]
fn a_session_expires_after_its_requested_ttl() {
    let daemon = with_short_ttl();
    let test_process = TestProcess::start();
    let start_ns = monotonic_ns();
    let (_, response) = daemon.register_with(1, "s", test_process.pid(), json!({"ttl": 2}));
    assert_eq!(granted_ms(&response), 2_000);
    let shown = daemon.me(1).1;
    assert_eq!(shown["session"]["expiresAt"], response["expires_at"]);
    eventually("it is not listed any more", || daemon.listed().is_empty());
    let lasted = Duration::from_nanos(monotonic_ns() - start_ns);
    assert!(lasted >= Duration::from_secs(2), "{lasted:?}");
    daemon.stop();
}

#[test]
fn the_maximum_ttl_limits_requested_ttls_and_can_be_absent() {
    let daemon = Daemon::with(|options| {
        options.ttl = None;
        options.max_ttl = Some(Duration::from_mins(1));
    });
    let test_process = TestProcess::start();
    for (ttl, granted) in [
        (json!(null), 60_000),
        (json!("process"), 60_000),
        (json!(61), 60_000),
        (json!(59), 59_000),
    ] {
        let (_, response) = daemon.register_with(1, "s", test_process.pid(), json!({"ttl": ttl}));
        assert_eq!(granted_ms(&response), granted, "{ttl}");
    }
    daemon.stop();

    let daemon = Daemon::with(|options| options.ttl = None);
    let (_, response) = daemon.register(1, "s", test_process.pid());
    assert_eq!(response["expires_at"], Value::Null);
    let (status, problem) = daemon.register_with(1, "s", test_process.pid(), json!({"ttl": 0}));
    assert_eq!((status, &problem["field"]), (422, &json!("ttl")));
    daemon.stop();
}

#[test]
fn a_repeated_registration_renews_the_session_without_an_event() {
    let daemon = with_short_ttl();
    let mut events = Events::open(&daemon, "/v1/events", "");
    let test_process = TestProcess::start();
    let register = |more| daemon.register_with(1, "s", test_process.pid(), more).1;
    let first = register(json!({"ttl": 5}));
    assert_eq!(first["renewed"], false);
    let early = Deadline::after(Duration::from_millis(500));
    eventually("some of the ttl is over", || early.has_passed());
    let renewed_ttl = Deadline::after(Duration::from_secs(5));
    let last = register(json!({"ttl": 5, "role": "renewed"}));
    assert_eq!(last["renewed"], true);
    assert_eq!(granted_ms(&last), 5_000);
    assert!(last["registered_at"].as_u64() > first["registered_at"].as_u64());
    let shown = daemon.get("/v1/sessions").1;
    assert_eq!(shown["sessions"][0]["role"], "renewed");
    assert_eq!(shown["sessions"][0]["registeredAt"], last["registered_at"]);
    assert_eq!(daemon.get("/v1/sources").1["processes"], 1);
    let text = events.until("session_deregistered").to_owned();
    assert!(renewed_ttl.has_passed(), "the ttl was renewed");
    let names: Vec<_> = events_in(&text).into_iter().map(|(name, _)| name).collect();
    let of_sessions = names.iter().filter(|name| name.starts_with("session_"));
    assert!(
        of_sessions.eq(&["session_registered", "session_deregistered"]),
        "{names:?}"
    );
    events.until("\"cause\":\"expired\"");
    eventually("its process is not watched any more", || {
        daemon.get("/v1/sources").1["processes"] == 0
    });
    daemon.stop();
}

#[test]
fn a_child_cannot_register_with_its_parents_token() {
    let daemon = Daemon::start();
    let (outer, nested) = (TestProcess::start(), TestProcess::start());
    daemon.register(1, "outer", outer.pid());
    for id in ["nested", "outer"] {
        let (status, problem) = daemon.register(1, id, nested.pid());
        assert_eq!((status, &problem["code"]), (409, &json!("token_in_use")));
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("`reaperd token`"), "{detail}");
    }
    let (_, me) = daemon.me(1);
    assert_eq!(me["session"]["pid"], outer.pid());
    assert_eq!(daemon.get("/v1/sources").1["processes"], 1);
    let own = daemon.register(2, "nested", nested.pid());
    assert_eq!(own.0, 200);
    drop(nested);
    eventually("the nested session ends", || daemon.me(2).0 == 401);
    assert_eq!(daemon.me(1).0, 200, "the outer session stays");
    daemon.stop();
}

#[test]
fn a_token_can_be_reused_as_soon_as_its_process_has_ended() {
    // No source finds the death here, so the daemon checks when the token is used again.
    let daemon = Daemon::with(|options| {
        options.sources = Sources::only([Source::Sweep]);
        options.sweep_interval = Duration::from_hours(1);
    });
    let mut events = Events::open(&daemon, "/v1/events", "");
    let (first, second) = (TestProcess::start(), TestProcess::start());
    daemon.register(1, "s", first.pid());
    drop(first);
    assert_eq!(daemon.listed(), ["s"], "not yet removed");
    let (status, response) = daemon.register(1, "s", second.pid());
    assert_eq!(
        (status, &response["renewed"]),
        (200, &json!(false)),
        "{response}"
    );
    assert_eq!(daemon.me(1).1["session"]["pid"], second.pid());
    let text = events.until("\"cause\":\"exited\",\"source\":\"register\"");
    let end = &text[text.find("session_deregistered").unwrap()..];
    assert!(!end.contains("\"cause\":\"replaced\""), "{end}");
    daemon.stop();
}

#[test]
fn the_token_of_an_ended_session_gets_the_same_cause_as_the_event() {
    let daemon = Daemon::start();
    let mut events = Events::open(&daemon, "/v1/events", "");
    let mut exits = Command::new("sh")
        .args(["-c", "read line; exit 3"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    daemon.register(1, "exits", exits.id());
    let killed = TestProcess::start();
    daemon.register(2, "killed", killed.pid());
    let leaves = TestProcess::start();
    daemon.register(3, "leaves", leaves.pid());
    drop(exits.stdin.take());
    eventually("the first session has ended", || daemon.me(1).0 == 401);
    drop(killed);
    eventually("the second session has ended", || daemon.me(2).0 == 401);
    daemon.request("DELETE", &format!("/v1/sessions/{:064x}", 3), "", "");
    let text = events.until("\"cause\":\"requested\"").to_owned();
    exits.wait().unwrap();

    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let data = data.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ends: Vec<_> = data.filter(|data| data.get("cause").is_some()).collect();
    assert_eq!(ends.len(), 3);
    for (token, end) in (1..).zip(&ends) {
        let (status, problem) = daemon.me(token);
        assert_eq!((status, &problem["code"]), (401, &json!("session_gone")));
        let detail = problem["detail"].as_str().unwrap();
        for field in ["cause", "source", "evidence", "exit"] {
            assert_eq!(problem.get(field), end.get(field), "{field}: {problem}");
        }
        for word in ["cause", "source", "evidence"] {
            let word = end[word].as_str().unwrap_or_default();
            assert!(detail.contains(word), "{detail}");
        }
        for number in ["code", "signal"] {
            if let Some(number) = end["exit"][number].as_u64() {
                assert!(detail.contains(&format!("{number}")), "{detail}");
            }
        }
    }
    if rustix::process::geteuid().is_root() {
        assert_eq!(ends[0]["exit"]["code"], 3);
    }
    daemon.stop();
}
