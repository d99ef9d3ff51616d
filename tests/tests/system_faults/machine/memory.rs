//! Memory is short. As many sessions as this daemon allows, each with a long folder and many groups,
//! come and go; as many follow the events as may, and none of them reads. What the daemon holds then
//! is bounded, and a limit a little above that bound does not kill it. Lists that nobody reads have a
//! bound of their own and are not among it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use reaper_tests::cgroup::Cgroup;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::expect::{measured, skip};
use reaper_tests::wait::eventually;
use serde_json::json;

use super::is_ours;
use crate::life::the_dead_go_and_the_living_stays;

/// What it is told to allow: a tenth of the usual, so that the rounds are short.
const SESSIONS: usize = 1_024;
/// Those that are listed, and those of the 4,096 events that are kept: each came and went.
const SESSIONS_HELD: u64 = 1_024 + 4_096 / 2;
/// The longest folder, 64 groups of 64 bytes and 2 KiB for everything else.
const SESSION_BYTES: u64 = 4_096 + 64 * 64 + 2_048;
/// Who follows the events and never reads one.
const DEAF: usize = 64;
/// What is buffered for each, by us and by its socket (`net.core.wmem_default`).
const DEAF_BYTES: u64 = 64 * 1_024 + 212_992;
/// The whole list as text, in a buffer that grows by doubling.
const LIST: u64 = SESSIONS as u64 * SESSION_BYTES * 2;
/// What the daemon needs by itself: most at its start, when it reads the kernel's types.
const ITSELF: u64 = 48 << 20;
/// Enough that all that is kept of the past has been replaced by what came later. Whether more is kept
/// would take many rounds to show here; the table's and the event log's own tests look for it.
const ROUNDS: usize = 4;
const BOUND: u64 = SESSIONS_HELD * SESSION_BYTES + DEAF as u64 * DEAF_BYTES + LIST + ITSELF;

fn registers_as_much_as_it_may(daemon: &TestDaemon, round: usize, pid: u32) {
    let details = json!({
        "cwd": format!("/{}", "x".repeat(4_095)),
        "groups": vec!["g".repeat(64); 64],
    });
    for number in 0..SESSIONS {
        let id = format!("{round}-{number}");
        daemon.try_register_with(&id, pid, details.clone()).unwrap();
    }
}

fn deaf(daemon: &TestDaemon) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let request = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut status = *b"HTTP/1.0 ???";
    stream.read_exact(&mut status).unwrap();
    assert_eq!(status, *b"HTTP/1.0 200");
    stream
}

#[test]
fn a_limit_a_fifth_above_the_bound_kills_nobody() {
    if !is_ours("the memory of groups") {
        return;
    }
    let group = match Cgroup::with_memory("memory", BOUND * 6 / 5) {
        Ok(group) => group,
        Err(reason) => return skip(reason),
    };
    let oracle = group.oracle();
    let enter = [
        "sh",
        "-c",
        "echo $$ > \"$0\" && exec \"$@\"",
        oracle.to_str().unwrap(),
    ];
    let most = SESSIONS.to_string();
    let daemon = Launch::with(&["--sweep-interval", "500ms", "--max-sessions-per-uid", &most])
        .through(&enter)
        .start();
    let deaf: Vec<_> = (0..DEAF).map(|_| deaf(&daemon)).collect();
    for round in 0..ROUNDS {
        let mut one = Crowd::start(1).unwrap();
        registers_as_much_as_it_may(&daemon, round, one.pids().next().unwrap());
        assert_eq!(daemon.list().len(), SESSIONS);
        one.kill().unwrap();
        eventually("all of its sessions are gone", || daemon.list().is_empty());
    }
    drop(deaf);
    the_dead_go_and_the_living_stays(&daemon, &Crowd::start(0).unwrap(), || {});
    // Since 5.19.
    if let Some(peak) = group.count("memory.peak", "") {
        measured(
            "memory at most, of a bound of",
            format_args!("{peak} of {BOUND} bytes"),
        );
    }
    assert_eq!(group.count("memory.events", "oom_kill "), Some(0));
    daemon.stop();
}
