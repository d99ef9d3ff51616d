//! Event streams: framing, scope, replay, gaps and shutdown.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;

use super::fixture::{Daemon, Events, TestProcess, events_in, eventually, session_header};

#[test]
fn a_stream_has_no_length_and_no_chunks_and_ends_with_the_daemon() {
    let daemon = Daemon::start();
    let test_process = TestProcess::start();
    let events = Events::open(&daemon, "/v1/events", "");
    // A client that never reads, so that its stream cannot be finished cleanly.
    let _silent = Events::open(&daemon, "/v1/events", "");
    let _idle = daemon.connect();
    daemon.register(1, "s", test_process.pid());
    let took = daemon.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let text = events.read_to_the_end();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.0 200 ok\r\n") && head.contains("connection: close"));
    assert!(
        !head.contains("chunked") && !head.contains("content-length"),
        "{head}"
    );
    assert!(head.contains("content-type: text/event-stream"));
    assert!(
        body.starts_with(": connected\n\nretry: 1000\n\nid: "),
        "{body}"
    );
    let names: Vec<_> = events_in(body).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["session_registered", "shutdown"]);
}

#[test]
fn a_resumed_stream_has_each_missed_event_once() {
    let daemon = Daemon::start();
    let test_process = TestProcess::start();
    let mut first = Events::open(&daemon, "/v1/events", "");
    daemon.register(1, "a", test_process.pid());
    daemon.register(2, "b", test_process.pid());
    let seen = first.until("\"sessionId\":\"b\"").to_owned();
    let ids: Vec<_> = seen
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    drop(first);
    daemon.register(3, "c", test_process.pid());
    let mut again = Events::resume(&daemon, ids[0]);
    daemon.register(4, "d", test_process.pid());
    let text = again.until("\"sessionId\":\"d\"");
    let numbers: Vec<_> = events_in(text)
        .into_iter()
        .map(|(_, seq)| seq.unwrap())
        .collect();
    let start = events_in(&seen)[1].1.unwrap();
    assert_eq!(numbers, [start, start + 1, start + 2], "{text}");
    daemon.stop();
}

#[test]
fn an_event_id_of_another_run_gets_a_gap_and_a_snapshot() {
    let daemon = Daemon::start();
    let test_process = TestProcess::start();
    daemon.register(1, "a", test_process.pid());
    for (token, id) in (2..).zip(["0000000000000000.1", "nonsense", "1.99999"]) {
        let mut events = Events::resume(&daemon, id);
        let text = events.until("]}\n\n").to_owned();
        let body = text.split_once("retry: 1000\n\n").unwrap().1;
        assert!(
            body.starts_with("event: gap\ndata: {\"reason\":\"epoch\"}\n\nid: "),
            "{body}"
        );
        assert_eq!(events_in(body)[1].0, "snapshot");
        // The id of the snapshot can be resumed from.
        let id = body
            .lines()
            .find_map(|line| line.strip_prefix("id: "))
            .unwrap();
        let mut next = Events::resume(&daemon, id);
        daemon.register(token, "a", test_process.pid());
        let text = next.until("session_registered");
        assert!(!text.contains("event: gap"), "{text}");
    }
    let mut events = Events::open(&daemon, "/v1/events?snapshot=1", "");
    let text = events.until("]}\n\n");
    assert!(text.contains("event: snapshot\ndata: {\"sessions\":[{\"sessionId\":\"a\""));
    daemon.stop();
}

#[test]
fn a_slow_reader_gets_a_gap_and_does_not_delay_others() {
    let daemon = Daemon::start();
    let test_process = TestProcess::start();
    let mut lagging = Events::open(&daemon, "/v1/events?event=session_registered", "");
    let first_id = {
        let mut quick = Events::open(&daemon, "/v1/events", "");
        daemon.register(1, "first", test_process.pid());
        let text = quick.until("session_registered\n");
        text.lines()
            .find_map(|line| line.strip_prefix("id: "))
            .unwrap()
            .to_owned()
    };
    let mut stream = daemon.connect();
    let mut part = [0; 4_096];
    // Each registration is two events; together they exceed the event log and the socket's buffers.
    let details = "x".repeat(4_000);
    for round in 0..4_000 {
        let body = json!({
            "token": format!("{:064x}", round + 2), "session_id": "s", "mesh": "dev",
            "display_name": round.to_string(), "cwd": details, "pid": test_process.pid(),
        })
        .to_string();
        let request = format!(
            "POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let count = stream.read(&mut part).unwrap();
        assert!(part[..count].starts_with(b"HTTP/1.1 200"));
    }
    let text = lagging.until("\"displayName\":\"3999\"");
    assert!(text.contains("event: gap\ndata: {\"missed_from\":"));
    let mut next = 0;
    for (name, seq) in events_in(text) {
        let seq = seq.unwrap();
        assert!(seq > next, "{name} {seq} after {next}");
        next = seq;
    }
    // An id that is no longer in the event log gets a gap as well.
    let mut late = Events::resume(&daemon, &first_id);
    let text = late.until("]}\n\n");
    let names: Vec<_> = events_in(text).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["gap", "snapshot"]);
    // With `since` it gets the events that are kept.
    let mut kept = Events::open(&daemon, "/v1/events?since=0&event=session_registered", "");
    let text = kept.until("\"displayName\":\"3999\"");
    let names: Vec<_> = events_in(text).into_iter().map(|(name, _)| name).collect();
    let (gap, kept) = names.split_first().unwrap();
    assert_eq!(*gap, "gap");
    assert!(kept.len() > 100, "{} events", kept.len());
    assert!(kept.iter().all(|name| *name == "session_registered"));
    for wrong in ["99999999", "x", "-1"] {
        let (status, problem) = daemon.get(&format!("/v1/events?since={wrong}"));
        assert_eq!((status, &problem["field"]), (400, &"since".into()));
    }
    daemon.stop();
}

#[test]
fn a_session_token_limits_a_stream_to_its_session_and_filters_narrow_it() {
    let daemon = Daemon::start();
    let test_process = TestProcess::start();
    daemon.register(0xa, "a", test_process.pid());
    let mut own = Events::open(&daemon, "/v1/events", &session_header(0xa));
    let mut named = Events::open(&daemon, "/v1/events?session=b%20c", "");
    let mut ends = Events::open(&daemon, "/v1/events?event=session_deregistered,gap", "");
    daemon.register(0xb, "b c", test_process.pid());
    drop(test_process);
    let shown = |text: &str| {
        let sessions = ["\"sessionId\":\"a\"", "\"sessionId\":\"b c\""];
        (
            sessions.map(|session| text.matches(session).count()),
            events_in(text).len(),
        )
    };
    assert_eq!(shown(own.until("event: end\n")), ([1, 0], 2));
    assert_eq!(shown(named.until("\"detection_us\"")), ([0, 2], 2));
    ends.until("\"sessionId\":\"a\"");
    assert_eq!(shown(ends.until("\"sessionId\":\"b c\"")), ([1, 1], 2));
    assert_eq!(daemon.get("/v1/events?event=nonsense").1["field"], "event");
    daemon.stop();
}

#[test]
fn a_stream_of_a_session_ends_with_it_and_does_not_show_the_next_one_of_its_id() {
    let daemon = Daemon::start();
    let test_process = TestProcess::start();
    daemon.register(0xa, "a", test_process.pid());
    let own = Events::open(&daemon, "/v1/events", &session_header(0xa));
    // The registration replaces the session of the same id.
    daemon.register(0xb, "a", test_process.pid());
    let text = own.read_to_the_end();
    let names: Vec<_> = events_in(&text).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["session_deregistered", "end"], "{text}");
    daemon.stop();
}

#[test]
fn the_daemon_binds_a_removed_socket_again() {
    let daemon = Daemon::start();
    let mut events = Events::open(&daemon, "/v1/events", "");
    std::fs::remove_file(daemon.socket()).unwrap();
    eventually("the socket is bound again", || {
        UnixStream::connect(daemon.socket()).is_ok()
    });
    let test_process = TestProcess::start();
    assert_eq!(daemon.register(1, "s", test_process.pid()).0, 200);
    events.until("session_registered");
    daemon.stop();
}
