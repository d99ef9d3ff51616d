//! `reaperd watch`: what it shows, from where, until when, and what it runs.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::sync::mpsc;
use std::thread;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::scale::scaled;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{Deadline, TIMEOUT, eventually, eventually_some};
use reaperd::client::SseParser;
use rustix::process::Signal;

use super::*;

/// The daemon stopped in an orderly way.
pub(super) const STOPPED: i32 = 9;

/// Starts `watch --json` and waits until it listens.
pub(super) fn watch(daemon: &TestDaemon, arguments: &[&str]) -> Launched {
    let mut command = command(&["watch", "--json"]);
    set_environment(&mut command, daemon);
    let mut watch = Launched::start(command.args(arguments));
    let first = json(&watch.line());
    assert_eq!(first["event"], "listening", "{first}");
    assert_eq!(first["data"]["resumed"], false, "{first}");
    watch
}

pub(super) fn status(mut watch: Launched) -> ExitStatus {
    eventually_some("watch ends", || watch.child.try_wait().unwrap())
}

pub(super) fn exit_code(watch: Launched) -> Option<i32> {
    status(watch).code()
}

fn session_of(event: &Value) -> &str {
    event["data"]["session"]["sessionId"]
        .as_str()
        .unwrap_or_default()
}

#[test]
fn it_says_when_it_listens_and_when_the_daemon_has_stopped() {
    let daemon = daemon();
    let process = TestProcess::start();
    daemon.register("before", process.pid());
    let mut watch = watch(
        &daemon,
        &["--filter", "event=session_registered,session=after"],
    );
    for id in ["other", "after"] {
        daemon.register(id, TestProcess::start().pid());
    }
    let event = json(&watch.line());
    assert_eq!(
        (&event["event"], session_of(&event)),
        (&"session_registered".into(), "after")
    );
    daemon.stop();
    let last = [(); 2].map(|()| json(&watch.line()));
    assert_eq!(
        (&last[0]["event"], &last[1]["event"]),
        (&"shutdown".into(), &"end".into())
    );
    assert_eq!(exit_code(watch), Some(STOPPED));
}

#[test]
fn it_shows_the_sessions_that_a_label_or_a_mesh_selects() {
    let daemon = daemon();
    let process = TestProcess::start();
    let sessions = "event=session_registered";
    let by_label = format!("{sessions},label.os=a,b");
    let mut labelled = watch(&daemon, &["--filter", &by_label]);
    let mut of_mesh = watch(&daemon, &["--filter", sessions, "--filter", "mesh=test"]);
    let pid = process.pid().to_string();
    let register = ["register", "--pid", &pid, "--id", "own", "--mesh", "other"];
    run(&daemon, &register).done();
    run(&daemon, &[&register[..], &["--label", "os=a,b"]].concat()).done();
    daemon.register("last", process.pid());
    let event = json(&labelled.line());
    let expected = serde_json::json!({"os": "a,b"});
    assert_eq!(event["data"]["session"]["labels"], expected, "{event}");
    let event = json(&of_mesh.line());
    assert_eq!(session_of(&event), "last");
    daemon.stop();
}

#[test]
fn it_begins_with_the_past_or_the_present_if_asked() {
    let daemon = daemon();
    let process = TestProcess::start();
    daemon.register("s-1", process.pid());
    daemon.register("s-2", process.pid());
    let sessions = ["--filter", "event=session_registered"];
    let mut from_start = watch(&daemon, &[&["--since", "0"][..], &sessions].concat());
    let first = json(&from_start.line());
    assert_eq!(session_of(&first), "s-1");
    let id = first["id"].as_str().unwrap();
    let mut behind = watch(&daemon, &[&["--since", id][..], &sessions].concat());
    assert_eq!(session_of(&json(&behind.line())), "s-2");
    let snapshot = json(&watch(&daemon, &["--snapshot"]).line());
    assert_eq!(snapshot["event"], "snapshot");
    assert_eq!(snapshot["data"]["sessions"].as_array().unwrap().len(), 2);
    run(&daemon, &["watch", "--since", "9999"])
        .failed(FAILED, "there is no event with this number yet");
    daemon.stop();
}

#[test]
fn unusable_positions_and_filters_are_usage_errors() {
    for (arguments, part) in [
        (&["--since", "yesterday"][..], "EPOCH.SEQ"),
        (&["--filter", "event=died"], "session_deregistered"),
        (&["--since", "0", "--snapshot"], "cannot be used with"),
        (&["--exec-timeout", "1s"], "--exec"),
    ] {
        let output = CommandOutput::of(command(&["watch"]).args(arguments));
        output.failed(USAGE, part);
    }
}

#[test]
fn it_ends_when_its_reader_has_gone_even_if_nothing_happens() {
    let daemon = daemon();
    let mut command = command(&["watch", "--follow"]);
    set_environment(&mut command, &daemon);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert!(first.contains("listening"), "{first}");
    drop(out);
    let status = eventually_some("watch ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(DONE));

    let closed = format!("exec '{}' watch >&-", reaperd().display());
    let mut shell = Command::new("sh");
    set_environment(&mut shell, &daemon);
    CommandOutput::of(shell.args(["-c", &closed])).failed(FAILED, "standard output is closed");
    daemon.stop();
}

/// All events of the daemon behind this one, up to the registration of `marker`.
fn history(daemon: &TestDaemon, after: &str, marker: &str) -> Vec<(String, String)> {
    daemon.register(marker, std::process::id());
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let request =
        format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {after}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let (mut parser, mut piece) = (SseParser::default(), vec![0; 65_536]);
    let mut events = Vec::new();
    let deadline = Deadline::after(TIMEOUT);
    loop {
        assert!(!deadline.has_passed(), "{marker} is not read");
        let length = stream.read(&mut piece).unwrap();
        parser.push(&piece[..length]);
        while let Some(frame) = parser.pop() {
            let is_last = frame.data.contains(&format!("\"{marker}\""));
            events.push((frame.id, frame.event));
            if is_last {
                return events;
            }
        }
    }
}

/// Killed and reaped on drop.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

#[test]
fn following_through_restarts_shows_exactly_the_history_of_the_daemon() {
    let daemon = daemon();
    let first = {
        daemon.register("first", std::process::id());
        let mut from_start = watch(&daemon, &["--since", "0", "--filter", "session=first"]);
        json(&from_start.line())["id"].as_str().unwrap().to_owned()
    };
    let mut command = command(&["watch", "--json", "--follow", "--since", &first]);
    set_environment(&mut command, &daemon);
    let watch = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = Killed(watch.spawn().unwrap());
    // Read all the time: with a full pipe it would not even notice the restarts.
    let (sender, lines) = mpsc::channel();
    let mut out = BufReader::new(watch.0.stdout.take().unwrap());
    thread::spawn(move || {
        let mut line = String::new();
        while out.read_line(&mut line).is_ok_and(|length| length > 0) {
            if sender.send(json(&line)).is_err() {
                return;
            }
            line.clear();
        }
    });
    let restarts = scaled(50, 5);
    let mut number = 0;
    for _ in 0..restarts {
        let worker = daemon.pid();
        // Some before, some while the worker is killed, some while there is none.
        for step in 0..12 {
            number += 1;
            let process = TestProcess::start();
            if step == 6 {
                daemon.signal_worker(Signal::KILL);
            }
            // The answer may be lost with the worker.
            daemon
                .try_register(&format!("s-{number}"), process.pid())
                .map(drop)
                .unwrap_or_default();
        }
        eventually("another worker serves", || {
            daemon.pid() != worker && daemon.get::<Value>("/v1/version").is_ok()
        });
    }
    eventually("only the first session is left", || {
        daemon.list().len() == 1
    });
    let history = history(&daemon, &first, "marker");
    let (mut shown, mut resumed) = (Vec::new(), 0);
    while shown.is_empty() || shown.last() != history.last() {
        let event = lines.recv_timeout(TIMEOUT).unwrap();
        let name = event["event"].as_str().unwrap();
        assert_ne!(name, "gap", "{event}");
        if name == "listening" {
            resumed += 1;
        } else {
            let id = event["id"].as_str().unwrap();
            shown.push((id.to_owned(), name.to_owned()));
        }
    }
    assert_eq!(shown, history);
    assert!(
        resumed > restarts,
        "{resumed} streams for {restarts} restarts"
    );
    assert!(history.len() > restarts * 12, "{}", history.len());
    println!(
        "{restarts} restarts, {} events, {resumed} streams",
        history.len()
    );
    daemon.stop();
}
