//! Long lists and streams that are read slowly or not at all: what they cost the daemon.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::expect::measured;
use reaper_tests::raw_http;
use reaper_tests::wait::eventually;
use reaperd::client::SessionList;
use serde_json::{Value, json};

use super::fixture::{Daemon, TestProcess};

/// What one connection may cost whose response is not read: the daemon's buffers for it.
const CONNECTION_KIB: u64 = 192;
const FAT_SESSIONS: u64 = 500;
const UNREAD_LISTS: usize = 4;
const UNREAD_STREAMS: usize = 20;

/// Details of about 8 KiB.
fn fat() -> Value {
    json!({"cwd": format!("/{}", "x".repeat(4_095)), "groups": vec!["g".repeat(64); 64]})
}

fn resident_kib(daemon: &TestDaemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.unwrap().trim().trim_end_matches(" kB");
    size.parse().unwrap()
}

/// User and system time of the daemon in clock ticks.
fn cpu_ticks(daemon: &TestDaemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    ticks.map(|field| field.parse::<u64>().unwrap()).sum()
}

/// Sends a request and reads the status only.
fn unread(daemon: &TestDaemon, target: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut status = *b"HTTP/1.? ???";
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status[9..], b"200");
    stream
}

#[test]
fn unread_lists_and_snapshots_cost_their_buffers_only_and_give_them_back() {
    let daemon = TestDaemon::start(&["--sources", "pidfd"]);
    let test_process = TestProcess::start();
    let register_all = || {
        for number in 0..FAT_SESSIONS {
            let id = number.to_string();
            let registered = daemon.try_register_with(&id, test_process.pid(), fat());
            registered.unwrap();
        }
    };
    register_all();
    // The events keep the first sessions, so from here on each renewal frees as much as it takes.
    register_all();
    let before = resident_kib(&daemon);
    let open = || {
        let lists = (0..UNREAD_LISTS).map(|_| unread(&daemon, "/v1/sessions"));
        let streams = (0..UNREAD_STREAMS).map(|_| unread(&daemon, "/v1/events?snapshot=1"));
        lists.chain(streams).collect::<Vec<_>>()
    };
    let connections = open();
    // All sessions are renewed under the unread snapshots, which must not keep the old ones.
    register_all();
    let grown = resident_kib(&daemon).saturating_sub(before);
    let bound = u64::try_from(connections.len()).unwrap() * CONNECTION_KIB;
    measured("memory of 24 unread responses", format_args!("{grown} KiB"));
    assert!(grown <= bound, "{grown} KiB of {bound}");
    assert_eq!(daemon.list().len(), 500, "others are served");
    drop(connections);
    let spare = bound / 4;
    eventually("memory goes back", || {
        resident_kib(&daemon).saturating_sub(before) <= spare
    });
    daemon.stop();
}

/// Registers sessions up to this number over one connection.
fn register_up_to(daemon: &TestDaemon, stream: &mut UnixStream, pid: u32, from: u64, to: u64) {
    let mut part = [0; 4_096];
    for number in from..to {
        let request = raw_http::registration(&format!("{number:064x}"), &number.to_string(), pid);
        let kept = request.replace("Connection: close\r\n", "");
        stream.write_all(kept.as_bytes()).unwrap();
        let count = stream.read(&mut part).unwrap();
        let answer = String::from_utf8_lossy(&part[..count]);
        assert!(
            answer.starts_with("HTTP/1.1 200"),
            "{answer}\n{}",
            daemon.log()
        );
    }
}

#[test]
fn opening_a_stream_costs_the_same_however_many_sessions_there_are() {
    const MANY: u64 = 20_000;
    const ROUNDS: u32 = 1_500;
    let daemon = TestDaemon::start(&["--sources", "pidfd", "--max-sessions-per-uid", "30000"]);
    let test_process = TestProcess::start();
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let cost = || {
        let before = cpu_ticks(&daemon);
        for _ in 0..ROUNDS {
            drop(unread(&daemon, "/v1/events"));
        }
        cpu_ticks(&daemon) - before
    };
    register_up_to(&daemon, &mut stream, test_process.pid(), 0, 100);
    let few = cost();
    register_up_to(&daemon, &mut stream, test_process.pid(), 100, MANY);
    // In pages, and in one piece after the other.
    let paged = daemon.list();
    assert!(paged == daemon.get::<SessionList>("/v1/sessions").unwrap().sessions);
    assert_eq!(u64::try_from(paged.len()).unwrap(), MANY);
    let many = cost();
    measured(
        "CPU of 1,500 streams opened, 100 and 20,000 sessions",
        format_args!("{few} and {many} ticks"),
    );
    // A copy of the sessions for each stream would cost three to four times as much.
    assert!(many <= 2 * few + 20, "{few} and {many} ticks");
    daemon.stop();
}

/// Decodes a chunked body.
fn dechunked(mut body: &str) -> (String, usize) {
    let (mut text, mut longest) = (String::new(), 0);
    loop {
        let (length, rest) = body.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return (text, longest);
        }
        longest = longest.max(length);
        text.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
}

#[test]
fn a_long_list_is_sent_in_pieces_and_its_pages_have_the_same_sessions() {
    let daemon = Daemon::start();
    let test_process = TestProcess::start();
    for number in 0..40 {
        let (id, mesh) = (
            number.to_string(),
            ["even", "odd"][usize::from(number % 2 == 1)],
        );
        let mut details = fat();
        details["role"] = mesh.into();
        let (status, _) = daemon.register_with(number, &id, test_process.pid(), details);
        assert_eq!(status, 200);
    }
    let response = daemon.raw(raw_http::request("GET /v1/sessions", "", ""));
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let (text, longest) = dechunked(body);
    assert!(longest <= 32 * 1_024, "{longest}");
    let whole: Value = serde_json::from_str(&text).unwrap();
    let ids = |list: &Value| -> Vec<String> {
        let sessions = list["sessions"].as_array().unwrap().iter();
        sessions
            .map(|it| it["sessionId"].as_str().unwrap().to_owned())
            .collect()
    };
    let all: Vec<_> = (0..40).map(|number| number.to_string()).collect();
    assert_eq!(ids(&whole), all);
    assert_eq!(whole.get("next"), None);

    let (mut paged, mut after, mut count) = (Vec::new(), String::new(), 0);
    loop {
        let (status, page) = daemon.get(&format!("/v1/sessions?limit=1{after}"));
        assert_eq!(status, 200);
        assert_eq!(ids(&page).len(), 1);
        paged.extend(ids(&page));
        count += 1;
        match page.get("next") {
            Some(next) => after = format!("&after={}", next.as_str().unwrap()),
            None => break,
        }
    }
    assert_eq!((paged, count), (all, 40));
    for query in ["limit=0", "limit=x", "after=x"] {
        let (status, problem) = daemon.get(&format!("/v1/sessions?{query}"));
        let field = query.split('=').next().unwrap();
        assert_eq!((status, &problem["field"]), (400, &json!(field)));
    }
    daemon.stop();
}
