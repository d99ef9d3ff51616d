//! Connections that are kept between requests, and how they end.

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::Duration;

use reaper_tests::daemon::has_program;
use reaper_tests::expect::skip;
use reaper_tests::wait::Deadline;

use super::fixture::{Daemon, eventually};

/// Sends pairs of requests on kept connections, the second one this long after the first. Prints how
/// many of the second ones were answered, and how many used the same connection.
const PAIRS: &str = r"
const http = require('http');
const [socketPath, pairs, from, to] = process.argv.slice(1);
const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
const get = () => new Promise((resolve, reject) => {
  const request = http.get({ socketPath, path: '/v1/version', agent }, (response) => {
    response.resume();
    response.on('end', () => resolve(request.reusedSocket));
  });
  request.on('error', reject);
});
let answered = 0, reused = 0, errors = {};
const one = async (gap) => {
  await get();
  await new Promise((resolve) => setTimeout(resolve, gap));
  try { reused += await get() ? 1 : 0; answered++; }
  catch (error) { errors[error.code] = (errors[error.code] ?? 0) + 1; }
};
const gap = (at) => Number(from) + (Number(to) - Number(from)) * at / pairs;
Promise.all(Array.from({ length: Number(pairs) }, (_, at) => one(gap(at)))).then(() => {
  console.log(answered, reused, JSON.stringify(errors));
  process.exit(0);
});
";

#[test]
fn nodes_client_gets_every_response_around_the_announced_time() {
    if !has_program("node") {
        return skip("node is not installed");
    }
    let daemon = Daemon::with(|options| options.keep_alive = Duration::from_secs(3));
    let output = Command::new("node")
        .args(["-e", PAIRS])
        .arg(daemon.socket())
        // Pairs, and the shortest and the longest pause in milliseconds.
        .args(["100", "1500", "4500"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    println!("answered, on the same connection, errors: {text}");
    assert!(text.starts_with("100 "), "{text}");
    daemon.stop();
}

#[test]
fn a_kept_connection_announces_its_time_and_is_kept_two_seconds_longer() {
    // Longer than an incomplete head is waited for.
    let daemon = Daemon::with(|options| options.keep_alive = Duration::from_secs(4));
    let mut kept = daemon.kept();
    let (_, head, _) = kept.ask("GET /v1/version").unwrap();
    assert!(head.contains("\r\nkeep-alive: timeout=4\r\n"), "{head}");
    // A body that arrives on its own is no part of a head either.
    let post = b"POST /v1/sessions/register HTTP/1.1\r\nHost: l\r\nContent-Length: 2\r\n\r\n";
    kept.0.write_all(post).unwrap();
    eventually("the request has started", || {
        daemon.get("/v1/limits").1["limits"]["requests"]["used"] == 2
    });
    kept.0.write_all(b"[]").unwrap();
    assert_eq!(kept.response().unwrap().0, 422);
    let idle = Deadline::after(Duration::from_secs(10));
    let mut rest = Vec::new();
    kept.0.read_to_end(&mut rest).unwrap();
    let ended = idle.elapsed();
    assert!(rest.is_empty());
    assert!(ended >= Duration::from_millis(5_900), "{ended:?}");
    let closed = daemon.raw("GET /v1/version HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n");
    assert!(!closed.to_lowercase().contains("keep-alive"), "{closed}");
    daemon.stop();
}

/// Each request is written as close to the end of its connection as possible: it is answered, or it
/// could not be written.
#[test]
fn a_request_that_crosses_with_the_close_is_answered() {
    let daemon = Daemon::with(|options| options.keep_alive = Duration::from_secs(1));
    // Kept for three seconds.
    let before_the_end = Duration::from_millis(2_980);
    std::thread::scope(|scope| {
        let crossing = |at: u64| {
            let mut kept = daemon.kept();
            kept.ask("GET /v1/version").unwrap();
            // Over the last 20 ms before the end and the 20 ms after it.
            let at = before_the_end + Duration::from_micros(at * 400);
            let due = Deadline::after(at);
            std::thread::sleep(due.left());
            let request = b"GET /v1/version HTTP/1.1\r\nHost: l\r\n\r\n";
            // Whole, or not at all.
            let written = kept.0.write(request).is_ok();
            let response = kept.response();
            assert_eq!(written, response.is_ok(), "{response:?}");
            written
        };
        let threads: Vec<_> = (0..100)
            .map(|at| scope.spawn(move || crossing(at)))
            .collect();
        let written = threads.into_iter().map(|thread| thread.join().unwrap());
        println!(
            "{} of 100 were in time",
            written.filter(|written| *written).count()
        );
    });
    daemon.stop();
}

#[test]
fn a_head_that_is_not_completed_ends_its_connection_although_it_would_be_kept() {
    let daemon = Daemon::with(|options| options.keep_alive = Duration::from_mins(1));
    let mut kept = daemon.kept();
    kept.ask("GET /v1/version").unwrap();
    kept.0.write_all(b"GET /v1/vers").unwrap();
    let mut rest = Vec::new();
    // The read itself fails after ten seconds.
    kept.0.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    daemon.stop();
}

/// Sends requests until the daemon takes no more of them, because their responses are not read.
fn block(stream: &mut std::os::unix::net::UnixStream) -> usize {
    let request = b"GET /v1/version HTTP/1.1\r\nHost: l\r\n\r\n";
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut quiet = Deadline::after(Duration::from_millis(500));
    while !quiet.has_passed() {
        if stream
            .write(request)
            .is_ok_and(|length| length == request.len())
        {
            sent += 1;
            quiet = Deadline::after(Duration::from_millis(500));
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// It is shut down for reading before it is closed, and what was read of it is answered. One that takes no
/// answers would keep its place for as long as a reader may take, which is a minute.
#[test]
fn an_idle_connection_that_takes_no_response_is_closed_at_once() {
    let daemon = Daemon::with(|options| options.keep_alive = Duration::from_secs(1));
    let mut blocked = daemon.connect();
    println!("{} requests were sent", block(&mut blocked));
    let connections = || {
        let limits = daemon.get("/v1/limits").1;
        limits["limits"]["connections"]["used"].as_u64().unwrap()
    };
    assert_eq!(connections(), 2, "this one and the blocked one");
    // It is kept for three seconds.
    let closed = Deadline::after(Duration::from_secs(20));
    eventually("it is closed", || connections() == 1);
    assert!(!closed.has_passed(), "{:?}", closed.elapsed());
    daemon.stop();
}

#[test]
fn a_stream_whose_reader_has_gone_gives_its_place_back_although_a_request_is_behind_it() {
    let daemon = Daemon::start();
    let streams = || daemon.get("/v1/limits").1["limits"]["streams"]["used"].clone();
    let mut reader = daemon.connect();
    let both =
        "GET /v1/events HTTP/1.1\r\nHost: l\r\n\r\nGET /v1/version HTTP/1.1\r\nHost: l\r\n\r\n";
    reader.write_all(both.as_bytes()).unwrap();
    eventually("the stream is open", || streams() == 1);
    drop(reader);
    // Well before the comment of a quiet stream, which would fail to be written.
    let closed = Deadline::after(Duration::from_secs(5));
    eventually("the stream is closed", || streams() == 0);
    assert!(!closed.has_passed(), "{:?}", closed.elapsed());
    daemon.stop();
}
