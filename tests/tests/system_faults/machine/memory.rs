//! Little memory. As many sessions as the daemon allows, each with a long folder and many groups,
//! are registered and removed, while as many event streams as allowed are open and not read. The
//! memory of the daemon is bounded, and a limit a little above that bound does not kill it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use reaper_tests::cgroup::Cgroup;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::expect::{measured, skip};
use reaper_tests::wait::eventually;
use serde_json::json;

use super::may_change;
use crate::scenario::check_removals;

/// The limit of sessions that the daemon is started with: a tenth of the default, so that the
/// rounds are short.
const SESSIONS: usize = 1_024;
/// The listed sessions, and those that have ended within a minute; the log of 4,096 events has the same.
const SESSIONS_IN_MEMORY: u64 = 1_024 + 4_096;
/// The longest folder, 64 groups of 64 bytes and 2 KiB for everything else.
const SESSION_BYTES: u64 = 4_096 + 64 * 64 + 2_048;
/// Event streams that are never read.
const UNREAD_STREAMS: usize = 64;
/// The buffers of each stream, in the daemon and in its socket (`net.core.wmem_default`).
const STREAM_BYTES: u64 = 64 * 1_024 + 212_992;
/// The daemon without sessions. It needs most of this at the start, when it reads the kernel's BTF.
const BASE_BYTES: u64 = 48 << 20;
/// Enough to replace the whole event log. A leak would take many more rounds to show here; the
/// tests of the table and of the event log check for that.
const ROUNDS: usize = 4;
const BOUND: u64 =
    SESSIONS_IN_MEMORY * SESSION_BYTES + UNREAD_STREAMS as u64 * STREAM_BYTES + BASE_BYTES;

/// Registers as many sessions as the daemon allows, each as large as allowed.
fn register_all(daemon: &TestDaemon, round: usize, pid: u32) {
    let details = json!({
        "cwd": format!("/{}", "x".repeat(4_095)),
        "groups": vec!["g".repeat(64); 64],
    });
    for number in 0..SESSIONS {
        let id = format!("{round}-{number}");
        daemon.try_register_with(&id, pid, details.clone()).unwrap();
    }
}

fn open_stream(daemon: &TestDaemon) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let request = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut status = *b"HTTP/1.0 ???";
    stream.read_exact(&mut status).unwrap();
    assert_eq!(status, *b"HTTP/1.0 200");
    stream
}

#[test]
fn a_memory_limit_a_fifth_above_the_bound_does_not_kill_the_daemon() {
    if !may_change("the memory limit of cgroups") {
        return;
    }
    let group = match Cgroup::with_memory("memory", BOUND * 6 / 5) {
        Ok(group) => group,
        Err(reason) => return skip(reason),
    };
    let limit = SESSIONS.to_string();
    let daemon = Launch::with(&[
        "--sweep-interval",
        "500ms",
        "--max-sessions-per-uid",
        &limit,
        "--max-bytes-per-uid",
        "512MiB",
    ])
    .through(&group.entering())
    .start();
    let streams: Vec<_> = (0..UNREAD_STREAMS).map(|_| open_stream(&daemon)).collect();
    for round in 0..ROUNDS {
        let mut one = Crowd::start(1).unwrap();
        register_all(&daemon, round, one.pids().next().unwrap());
        assert_eq!(daemon.list().len(), SESSIONS);
        one.kill().unwrap();
        eventually("all of its sessions are removed", || {
            daemon.list().is_empty()
        });
    }
    drop(streams);
    check_removals(&daemon, &Crowd::start(0).unwrap(), || {});
    if let Some(peak) = group.peak_memory() {
        measured(
            "peak memory, of the computed bound",
            format_args!("{peak} of {BOUND} bytes"),
        );
    }
    assert_eq!(group.oom_kills(), Some(0));
    daemon.stop();
}
