//! Many more sessions, streams and connections than descriptors.

mod connections;
mod exhausted;
mod minimum;
mod registrations;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::wait::Deadline;
use reaperd::testkit::descriptors;
use reaperd::{Source, Sources};
use serde_json::json;

/// Too few descriptors to start with. The daemon's refusal then contains the number that it needs.
const FAR_TOO_FEW: usize = 20;
/// A response that waits for nothing comes sooner, even on a busy machine. Idle and silent
/// connections are closed later than this.
const AT_ONCE: Duration = Duration::from_secs(3);

fn limited(sources: &str, limit: usize) -> Launch {
    let script = format!("ulimit -n {limit}; exec \"$@\"");
    let flags = ["--sources", sources, "--sweep-interval", "250ms"];
    Launch::with(&flags).through(&["sh", "-c", &script, "sh"])
}

fn set_of(sources: &str) -> Sources {
    match sources {
        "netlink" => Sources::only([Source::Netlink]),
        "ebpf" => Sources::only([Source::Ebpf]),
        "pidfd" => Sources::only([Source::Pidfd]),
        "sweep" => Sources::only([]),
        _ => Sources::default(),
    }
}

fn number_after(text: &str, words: &str) -> usize {
    let (_, rest) = text
        .split_once(words)
        .unwrap_or_else(|| panic!("{words:?} is not in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// Starts a daemon with too low a limit. Returns how many descriptors it needs according to its
/// refusal: the documented minimum plus those that this test inherited.
fn refused_below(sources: &str, limit: usize) -> usize {
    let mut daemon = limited(sources, limit).spawn();
    let status = daemon.wait();
    let log = daemon.log();
    assert!(!status.success(), "{sources} at {limit}: {log}");
    let stated = number_after(&log, "and at least ");
    assert_eq!(number_after(&log, "limit of open descriptors is "), limit);
    assert_eq!(number_after(&log, "(ulimit -n "), stated);
    assert_eq!(number_after(&log, "LimitNOFILE="), stated);
    assert!(stated > limit, "{log}");
    let least = descriptors::minimum(&set_of(sources));
    assert!((least..least + 10).contains(&stated), "{least}: {log}");
    stated
}

/// Opens a connection, sends a request and reads the response's head, and as much of its body as
/// arrives with it.
fn ask(daemon: &TestDaemon, request: &str, body: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let response = ask_on(&mut stream, request, body);
    (stream, response)
}

fn ask_on(stream: &mut UnixStream, request: &str, body: &str) -> String {
    let length = body.len();
    stream.set_read_timeout(Some(AT_ONCE)).unwrap();
    let whole =
        format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(whole.as_bytes()).unwrap();
    let mut response = Vec::new();
    let mut part = [0; 4_096];
    while !response.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "closed within {request}");
        response.extend_from_slice(&part[..count]);
    }
    String::from_utf8(response).unwrap()
}

fn registration(pid: u32) -> String {
    json!({
        "token": format!("{pid:064x}"), "session_id": format!("pid-{pid}"), "mesh": "test",
        "display_name": "one of many", "pid": pid,
    })
    .to_string()
}

/// Opens event streams until one is refused.
fn all_streams(daemon: &TestDaemon) -> Vec<UnixStream> {
    let mut streams = Vec::new();
    loop {
        let (stream, response) = ask(daemon, "GET /v1/events", "");
        if !response.contains(" 200 OK\r\n") {
            assert!(response.contains(" 429 "), "{response}");
            assert!(response.contains("too_many_streams"), "{response}");
            let head = response.to_lowercase();
            assert!(head.contains("retry-after: "), "{response}");
            return streams;
        }
        streams.push(stream);
    }
}

/// Checks that registering, resolving and listing work at once, each on a new connection.
fn requests_are_served(daemon: &TestDaemon, id: &str) {
    let clock = Deadline::after(AT_ONCE);
    let token = daemon.register(id, std::process::id());
    assert!(daemon.resolves(&token).unwrap(), "{id}");
    assert!(daemon.lists(id));
    assert!(!clock.has_passed(), "{:?}", clock.elapsed());
}

/// Whether the daemon has closed the connection. Reads what is left of a response.
fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    stream.set_nonblocking(false).unwrap();
    !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

fn resident_kib(daemon: &TestDaemon) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let value = status.split("VmRSS:").nth(1).unwrap();
    value.split_whitespace().next().unwrap().parse().unwrap()
}

/// The descriptors that are open below the limit; `None` where this user may not list them.
fn open_below(daemon: &TestDaemon, limit: usize) -> Option<Vec<String>> {
    let folder = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).ok()?;
    let open = folder.flatten().filter_map(|entry| {
        let number: usize = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        (number < limit).then(|| format!("{number} {}", target.display()))
    });
    Some(open.collect())
}
