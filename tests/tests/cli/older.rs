//! A daemon of a former version, which ignores what it does not know.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use reaper_tests::daemon::private_folder;
use serde_json::json as object;

use super::*;

const JSON: &str = "application/json";

/// Runs a command against a server that gives each request the answer of `answer`: content type and body.
/// Returns the output and the first line of each request.
fn against(
    arguments: &[&str],
    answer: fn(&str) -> (&'static str, String),
) -> (CommandOutput, Vec<String>) {
    let folder = private_folder();
    let socket = folder.path().join("s.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        let mut requests = Vec::new();
        loop {
            let (stream, _) = listener.accept().unwrap();
            match answered(&stream, answer) {
                Some(line) => requests.push(line),
                None => return requests,
            }
        }
    });
    let output = CommandOutput::of(
        command(arguments)
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("REAPERD_SOCKET", &socket),
    );
    // A connection without a request ends the server.
    drop(UnixStream::connect(&socket).unwrap());
    (output, server.join().unwrap())
}

/// Answers the request of a connection. Returns its first line; `None` if there is no request.
fn answered(mut stream: &UnixStream, answer: fn(&str) -> (&'static str, String)) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.read_line(&mut first).unwrap() == 0 {
        return None;
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(given) = line.strip_prefix("content-length:") {
            length = given.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    let (kind, body) = answer(&first);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n");
    let length = match kind {
        JSON => format!("content-length: {}\r\n", body.len()),
        _ => String::new(),
    };
    write!(stream, "{head}{length}\r\n{body}").unwrap();
    Some(first.trim_end().to_owned())
}

fn registered(request: &str) -> (&'static str, String) {
    let body = if request.starts_with("POST") {
        r#"{"ok":true,"registered_at":1,"expires_at":null,"renewed":false,"presence_accepted":false,"start_time":1,"identity":"pidfd","sources":["pidfd"]}"#
    } else {
        r#"{"ok":true,"token_prefix":"00000000"}"#
    };
    (JSON, body.to_owned())
}

#[test]
fn a_session_of_several_processes_is_taken_back_if_the_daemon_knows_one_only() {
    let folder = private_folder();
    let file = folder.path().join("token");
    let path = file.to_str().unwrap();
    let one = ["register", "--pid", "1", "--pid", "1", "--token-file", path];
    let (output, requests) = against(&one, registered);
    assert_eq!((output.code, requests.len()), (Some(DONE), 1), "{output:?}");
    std::fs::remove_file(&file).unwrap();

    let two = ["register", "--pid", "1", "--pid", "2", "--token-file", path];
    let (output, requests) = against(&two, registered);
    output.failed(
        FAILED,
        "the daemon does not know sessions of several processes",
    );
    assert!(output.err.contains("the session was removed"), "{output:?}");
    assert!(
        requests[1].starts_with("DELETE /v1/sessions/me "),
        "{requests:?}"
    );
    assert!(!file.exists());
}

fn stream(_request: &str) -> (&'static str, String) {
    let session = |id: &str, mesh: &str, job: &str| object!({"sessionId": id, "mesh": mesh, "displayName": id, "pid": 1, "labels": {"job": job}});
    let all = [("a", "m", "7"), ("b", "m", "8"), ("c", "n", "7")];
    let all = all.map(|(id, mesh, job)| session(id, mesh, job));
    let frame = |id: &str, event: &str, data: Value| {
        let id = format!("id: 8956c629cba9efa7.{id}\n");
        format!("{id}event: {event}\ndata: {data}\n\n")
    };
    let ts = "2026-11-27T17:50:35.526Z";
    let mut frames = vec![frame("1", "snapshot", object!({"sessions": all}))];
    for session in all {
        let data = object!({"ts": ts, "seq": 1, "session": session});
        frames.push(frame("1", "session_registered", data));
    }
    frames.push(frame("2", "shutdown", object!({"ts": ts, "seq": 2})));
    ("text/event-stream", frames.concat())
}

#[test]
fn watch_leaves_out_what_an_older_daemon_sends_in_spite_of_the_filter() {
    let folder = private_folder();
    for (filter, expected) in [
        ("label.job=7", vec!["a", "c"]),
        ("mesh=m", vec!["a", "b"]),
        ("mesh=x", vec![]),
        ("uid=0", vec!["a", "b", "c"]),
    ] {
        let file = folder.path().join(filter);
        let append = format!("cat >> '{}'", file.to_str().unwrap());
        let arguments = [
            "watch",
            "--json",
            "--snapshot",
            "--filter",
            filter,
            "--exec",
            &append,
        ];
        let (output, _) = against(&arguments, stream);
        let executed = std::fs::read_to_string(&file).unwrap();
        for text in [&output.out, &executed] {
            let events: Vec<_> = text.lines().map(json).collect();
            let id = |session: &Value| session["sessionId"].as_str().unwrap().to_owned();
            let of_event = |event: &Value| {
                Some(&event["data"]["session"])
                    .filter(|it| it.is_object())
                    .map(id)
            };
            let mut ids: Vec<_> = events.iter().filter_map(of_event).collect();
            ids.sort();
            assert_eq!(ids, expected, "{filter}: {text}");
            let snapshot = events.iter().find(|it| it["event"] == "snapshot").unwrap();
            let snapshot = snapshot["data"]["sessions"].as_array().unwrap();
            assert_eq!(
                snapshot.iter().map(id).collect::<Vec<_>>(),
                expected,
                "{filter}: {text}"
            );
            assert!(events.iter().any(|it| it["event"] == "shutdown"), "{text}");
        }
    }
}
