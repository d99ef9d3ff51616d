//! A command that was started without a session does not get one later.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use reaper_tests::daemon::Events;
use reaper_tests::raw_http;
use reaper_tests::wait::Deadline;

use super::*;

/// The sessions whose registrations have been reported, up to that of `last`.
fn registered_up_to(events: &mut Events, last: &str) -> Vec<String> {
    let mut registered = Vec::new();
    events.until("the last registration", |arrived| {
        registered = arrived
            .iter()
            .filter(|event| event.frame.event == "session_registered")
            .map(|event| super::super::json(&event.frame.data))
            .map(|data| data["session"]["sessionId"].as_str().unwrap().to_owned())
            .collect();
        registered.iter().any(|id| id == last)
    });
    registered
}

#[test]
fn a_daemon_that_resumes_stores_nothing_for_a_command_that_runs_unregistered() {
    let harness = Harness::new();
    let mut events = harness.daemon.events();
    harness.daemon.suspend();
    let mut run = harness.run(&[
        "--best-effort",
        "--",
        "sh",
        "-c",
        "echo runs; exec sleep 600",
    ]);
    let mut launched = Launched::start(run.stderr(Stdio::null()));
    assert_eq!(launched.line(), "runs");
    harness.daemon.resume();
    harness.daemon.register("later", std::process::id());
    // Its registration is undone if the daemon has read it before the end of its connection.
    registered_up_to(&mut events, "later");
    eventually("the command has no session", || {
        harness.daemon.list().len() == 1
    });
    assert_eq!(harness.files(), Vec::<PathBuf>::new());
    launched.kill();
    drop(events);
    harness.daemon.stop();
}

#[test]
fn near_the_time_limit_a_command_is_registered_exactly_if_it_got_a_session_id() {
    const LAUNCHES: usize = 40;
    let harness = Harness::new();
    harness.daemon.suspend();
    // The client's time limit. The launches are spread over some time, so when the daemon resumes,
    // some of them are past their limit and some are not.
    let limit = Deadline::after(Duration::from_secs(5));
    let script = "echo \"$REAPERD_SESSION_ID\"; exec sleep 600";
    let mut launched: Vec<_> = (0..LAUNCHES)
        .map(|_| {
            let mut run = harness.run(&["--best-effort", "--", "sh", "-c", script]);
            Launched::start(run.stderr(Stdio::null()))
        })
        .collect();
    let spread = limit.elapsed() / 2;
    std::thread::sleep(limit.left() + spread);
    harness.daemon.resume();
    let printed: Vec<_> = launched.iter_mut().map(Launched::line).collect();
    // All earlier requests have been handled once this one has.
    harness.daemon.register("later", std::process::id());
    let printed: BTreeSet<_> = printed.into_iter().filter(|id| !id.is_empty()).collect();
    eventually(
        "the listed sessions are those that commands printed",
        || {
            let mut listed = harness.daemon.listed();
            listed.remove("later");
            listed == printed
        },
    );
    assert_eq!(harness.files().len(), printed.len());
    launched.iter_mut().for_each(Launched::kill);
    eventually("no token file is left", || harness.files().is_empty());
    harness.daemon.stop();
}

/// Between the moment when the client gives up and the end of its connection, the daemon must not
/// take it for a client that waits.
#[test]
fn a_registration_whose_response_cannot_be_delivered_is_undone() {
    let harness = Harness::new();
    let mut events = harness.daemon.events();
    harness.daemon.suspend();
    let mut client = UnixStream::connect(harness.daemon.socket()).unwrap();
    let register = |token: &str, id: &str, if_answered: bool| {
        let body = serde_json::json!({
            "token": token.repeat(32),
            "session_id": id,
            "mesh": "test",
            "display_name": id,
            "pid": std::process::id(),
            "if_answered": if_answered,
        });
        raw_http::request("POST /v1/sessions/register", "", &body.to_string())
    };
    client
        .write_all(register("5a", "given-up", true).as_bytes())
        .unwrap();
    client.shutdown(Shutdown::Read).unwrap();
    let mut careless = UnixStream::connect(harness.daemon.socket()).unwrap();
    careless
        .write_all(register("5b", "careless", false).as_bytes())
        .unwrap();
    careless.shutdown(Shutdown::Read).unwrap();
    harness.daemon.resume();
    let removal = events.removal_of("given-up");
    assert_eq!(removal.data.cause, "requested");
    registered_up_to(&mut events, "careless");
    assert!(!harness.daemon.lists("given-up"));
    assert!(
        harness.daemon.lists("careless"),
        "it did not set if_answered"
    );
    drop(events);
    harness.daemon.stop();
}

#[test]
fn a_registration_with_a_delivered_response_outlasts_its_connection() {
    let harness = Harness::new();
    let body = serde_json::json!({"if_answered": true});
    let daemon = &harness.daemon;
    let token = daemon
        .try_register_with("answered", std::process::id(), body)
        .unwrap();
    // The connection of the registration has ended before this request.
    eventually("the session is listed", || daemon.lists("answered"));
    assert!(daemon.accepts(&token));
    // Also after a request on another connection.
    let mut client = UnixStream::connect(daemon.socket()).unwrap();
    let field = format!("Authorization: ClaudeMesh-Session {}\r\n", *token.reveal());
    let me = raw_http::request("GET /v1/sessions/me", &field, "");
    client.write_all(me.as_bytes()).unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(daemon.lists("answered"));
    harness.daemon.stop();
}
