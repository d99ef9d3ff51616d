//! Sessions that have ended: which are listed, in which order, and with what.

use std::process::{Command, Stdio};

use reaperd::testkit::daemon::DaemonOptions;
use serde_json::{Value, json};

use super::fixture::{Daemon, Events, TestProcess, eventually, session_header};

const ENDED: &str = "/v1/sessions/ended";

fn ids(list: &Value) -> Vec<&str> {
    let sessions = list["sessions"].as_array().unwrap();
    let ids = sessions.iter().map(|it| it["sessionId"].as_str().unwrap());
    ids.collect()
}

/// Sessions of one process, of which those with the tokens from 1 to `count` have ended in this order.
fn with_ended(count: u64, change: impl FnOnce(&mut DaemonOptions)) -> (Daemon, TestProcess) {
    let daemon = Daemon::with(change);
    let process = TestProcess::start();
    daemon.register(100, "lives", process.pid());
    for token in 1..=count {
        let body = json!({"labels": {"odd": (token % 2).to_string()}});
        daemon.register_with(token, &format!("s-{token}"), process.pid(), body);
        let (status, _) = daemon.request("DELETE", "/v1/sessions/me", &session_header(token), "");
        assert_eq!(status, 200);
    }
    (daemon, process)
}

#[test]
fn an_ended_session_has_the_fields_of_its_event_and_its_times() {
    let daemon = Daemon::start();
    let mut events = Events::open(&daemon, "/v1/events", "");
    let other = TestProcess::start();
    let mut exits = Command::new("sh")
        .args(["-c", "read line; exit 3"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let secret = "cd".repeat(64);
    let presence = json!({
        "session_pubkey": "ab".repeat(32), "session_secret_key": secret,
        "parent_attestation": {
            "session_pubkey": "00", "parent_member_pubkey": "11", "signature": "22", "expires_at": 1
        },
    });
    let body = json!({"presence": presence, "labels": {"job": "7"}});
    let (_, first) = daemon.register_with(1, "exits", exits.id(), body.clone());
    let clock = || daemon.register(9, "clock", other.pid()).1["registered_at"].clone();
    eventually("the clock goes on", || {
        clock().as_u64() > first["registered_at"].as_u64()
    });
    let (_, renewed) = daemon.register_with(1, "exits", exits.id(), body);
    assert_eq!(renewed["renewed"], true);
    assert_eq!(ids(&daemon.get(ENDED).1), [""; 0]);
    drop(exits.stdin.take());
    eventually("it has ended", || daemon.me(1).0 == 401);
    exits.wait().unwrap();

    events.until("\"cause\":\"exited\"");
    daemon.register(8, "after", other.pid());
    let text = events.until("\"sessionId\":\"after\"").to_owned();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let data = data.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let event = data
        .into_iter()
        .find(|data| data["cause"] == "exited")
        .unwrap();
    let (status, list) = daemon.get(ENDED);
    assert_eq!((status, ids(&list)), (200, vec!["exits"]));
    let ended = &list["sessions"][0];
    for field in ["cause", "source", "evidence", "exit", "seq"] {
        assert_eq!(ended.get(field), event.get(field), "{field}: {ended}");
    }
    for (field, value) in event["session"].as_object().unwrap() {
        assert_eq!(ended.get(field), Some(value), "{field}");
    }
    assert_eq!(ended["startedAt"], first["registered_at"]);
    assert_eq!(ended["registeredAt"], renewed["registered_at"]);
    assert!(ended["endedAt"].as_u64() >= ended["registeredAt"].as_u64());
    let shown = list.to_string();
    assert!(!shown.contains(&secret[..16]) && !shown.contains(&format!("{:064x}", 1)));
    daemon.stop();
}

#[test]
fn the_last_one_comes_first_and_pages_and_filters_are_those_of_the_list() {
    let (daemon, _process) = with_ended(5, |_| {});
    let get = |query: &str| daemon.get(&format!("{ENDED}?{query}"));
    let (_, all) = get("");
    assert_eq!(ids(&all), ["s-5", "s-4", "s-3", "s-2", "s-1"]);
    let seq = all["sessions"][2]["seq"].as_u64().unwrap();
    for (query, expected) in [
        (format!("since={seq}"), vec!["s-5", "s-4"]),
        ("since=99999".into(), vec![]),
        ("limit=2".into(), vec!["s-5", "s-4"]),
        ("label=odd=0".into(), vec!["s-4", "s-2"]),
        ("session=s-1".into(), vec!["s-1"]),
        ("mesh=other".into(), vec![]),
        ("pid=1".into(), vec![]),
    ] {
        let (status, list) = get(&query);
        assert_eq!((status, ids(&list)), (200, expected), "{query}");
    }
    let (mut after, mut pages) = (String::new(), Vec::new());
    loop {
        let (_, page) = get(&format!("limit=2{after}"));
        pages.push(ids(&page).join(" "));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    assert_eq!(pages, ["s-5 s-4", "s-3 s-2", "s-1"]);
    for (query, field) in [
        ("since=x", "since"),
        ("limit=0", "limit"),
        ("after=x", "after"),
    ] {
        let (status, problem) = get(query);
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{query}");
    }
    daemon.stop();
}

#[test]
fn each_user_has_the_last_ones_only_and_sees_no_others() {
    let (daemon, _process) = with_ended(5, |options| options.ended_per_uid = 3);
    assert_eq!(ids(&daemon.get(ENDED).1), ["s-5", "s-4", "s-3"]);
    let (_, first) = daemon.get(&format!("{ENDED}?limit=2"));
    let next = first["next"].as_str().unwrap();
    let (_, last) = daemon.get(&format!("{ENDED}?limit=2&after={next}"));
    assert_eq!((ids(&last), last.get("next")), (vec!["s-3"], None));
    let uid = rustix::process::geteuid().as_raw();
    let other = daemon.get(&format!("{ENDED}?uid={}", uid + 1));
    if uid == 0 {
        assert_eq!((other.0, ids(&other.1)), (200, vec![]));
    } else {
        assert_eq!((other.0, &other.1["code"]), (403, &json!("other_user")));
    }
    daemon.stop();
}

#[test]
fn a_long_list_comes_in_pieces() {
    let (daemon, _process) = with_ended(60, |_| {});
    let response = daemon.raw(format!(
        "GET {ENDED} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    let (head, _) = response.split_once("\r\n\r\n").unwrap();
    assert!(
        head.to_lowercase().contains("transfer-encoding: chunked"),
        "{head}"
    );
    assert_eq!(response.matches("\"sessionId\":\"s-").count(), 60);
    daemon.stop();
}
