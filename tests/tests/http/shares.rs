//! What one user can take from others: connections, event streams, places in the queue.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reaper_tests::expect::{measured, root_with};
use reaper_tests::wait::Deadline;
use reaperd::testkit::daemon::{DaemonOptions, RegisterPolicy};
use serde_json::{Value, json};

use super::fixture::{Daemon, Kept, TestProcess, as_user, eventually, session_header};

const ROOT: u32 = 0;
const GREEDY: u32 = 2_001;
const OTHER: u32 = 2_002;
/// A response that waits for no other comes sooner, even on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A daemon for several users with so many connections, as root. Skips without root.
fn shared(connections: usize, change: impl FnOnce(&mut DaemonOptions)) -> Option<Daemon> {
    root_with(&[]).then(|| {
        Daemon::with(|options| {
            options.allow_uids = vec![GREEDY, OTHER];
            options.register_policy = RegisterPolicy::Any;
            options.max_connections = Some(connections);
            change(options);
        })
    })
}

/// What the caller holds of a resource, and may hold.
fn limit(daemon: &Daemon, resource: &str) -> (usize, usize) {
    let limits = daemon.get("/v1/limits").1;
    let number = |field: &str| limits["limits"][resource][field].as_u64().unwrap();
    let number = |field| usize::try_from(number(field)).unwrap();
    (number("used"), number("limit"))
}

/// Opens event streams until one is refused; returns them and the refusal.
fn all_streams(daemon: &Daemon) -> (Vec<Kept>, Value) {
    let mut streams = Vec::new();
    loop {
        let mut kept = daemon.kept();
        let (status, head, body) = kept.ask("GET /v1/events").unwrap();
        if status != 200 {
            assert_eq!(status, 429, "{body}");
            assert!(head.contains("\r\nretry-after: "), "{head}");
            return (streams, body);
        }
        streams.push(kept);
    }
}

/// Ends the loops of other threads, also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens an event stream.
fn stream(daemon: &Daemon) -> Kept {
    let mut kept = daemon.kept();
    assert_eq!(kept.ask("GET /v1/events").unwrap().0, 200);
    kept
}

/// Checks that a new connection of the caller is accepted and its `me` answered at once.
fn me_works(daemon: &Daemon, token: u64) {
    let clock = Deadline::after(AT_ONCE);
    assert_eq!(daemon.me(token).0, 200);
    assert!(!clock.has_passed(), "{:?}", clock.elapsed());
}

/// One request on each connection every three seconds, as a client that wants to keep them all.
fn keep_busy(connections: &mut [Kept], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for kept in &mut *connections {
            // A connection that was closed for another user stays closed.
            drop(kept.ask("GET /v1/version"));
        }
        let pause = Deadline::after(Duration::from_secs(3));
        while !pause.has_passed() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_user_with_all_the_connections_that_it_can_get_keeps_no_other_out() {
    let Some(daemon) = shared(120, |_| {}) else {
        return;
    };
    let test_process = TestProcess::start();
    let registered = |uid, token: u64| {
        as_user(uid, || {
            let (status, body) = daemon.register(token, &token.to_string(), test_process.pid());
            assert_eq!(status, 200, "{body}");
        });
    };
    registered(OTHER, 2);
    registered(ROOT, 3);
    let stop = AtomicBool::new(false);
    let held = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            as_user(GREEDY, || {
                // Three quarters of what is not reserved, once the others' connections have ended.
                let allowed = 84;
                eventually("the user is alone", || {
                    limit(&daemon, "connections").1 == allowed
                });
                // Half of them streams, which are never idle.
                let streams: Vec<_> = (0..allowed / 2).map(|_| stream(&daemon)).collect();
                let plain = |_| {
                    let mut kept = daemon.kept();
                    assert_eq!(kept.ask("GET /v1/version").unwrap().0, 200);
                    kept
                };
                let mut plain: Vec<_> = (streams.len()..allowed).map(plain).collect();
                // One more takes the place of its own longest idle one.
                assert_eq!(daemon.get("/v1/version").0, 200);
                held.store(true, Ordering::Relaxed);
                keep_busy(&mut plain, &stop);
            });
        });
        let _stop = StopOnDrop(&stop);
        eventually("all are held", || held.load(Ordering::Relaxed));
        let began = Deadline::after(Duration::from_secs(4));
        while !began.has_passed() {
            as_user(OTHER, || me_works(&daemon, 2));
            me_works(&daemon, 3);
            std::thread::sleep(Duration::from_millis(20));
        }
        // More than is left for it by the rule of shares: idle ones are closed for these.
        as_user(OTHER, || {
            let left = limit(&daemon, "connections").1;
            let streams = (0..left + 8).map(|_| stream(&daemon));
            let streams: Vec<_> = streams.collect();
            assert_eq!(limit(&daemon, "streams").0, streams.len());
        });
    });
    daemon.stop();
}

#[test]
fn a_user_with_all_the_streams_that_it_can_get_leaves_some_to_others() {
    let Some(daemon) = shared(160, |_| {}) else {
        return;
    };
    let (greedy, refusal) = as_user(GREEDY, || {
        let stated = limit(&daemon, "streams").1;
        let (streams, refusal) = all_streams(&daemon);
        assert_eq!(
            streams.len(),
            stated,
            "a lone user reaches the stated limit"
        );
        (streams, refusal)
    });
    assert!(greedy.len() >= 64, "{}", greedy.len());
    assert_eq!(refusal["code"], "too_many_streams");
    let count = greedy.len();
    let detail = format!("user {GREEDY} has {count} event streams; the share of this user is now");
    let text = refusal["detail"].as_str().unwrap();
    assert!(text.starts_with(&detail), "{text}");
    let others = as_user(OTHER, || all_streams(&daemon).0);
    // The guarantee of the second of two users, of 148.
    assert!(others.len() >= 3 * 148 / 28, "{}", others.len());
    let (roots, _) = all_streams(&daemon);
    assert!(roots.len() > others.len() / 4, "{}", roots.len());
    // Root sees everybody's use.
    let users = daemon.get("/v1/limits").1["users"].clone();
    let used = |uid: u32| {
        let of = |user: &&Value| user["uid"] == uid;
        let user = users.as_array().unwrap().iter().find(of).unwrap();
        user["limits"]["streams"]["used"].clone()
    };
    assert_eq!(
        [used(GREEDY), used(OTHER)],
        [json!(count), json!(others.len())]
    );
    assert_eq!(used(ROOT), roots.len());
    as_user(OTHER, || {
        assert!(daemon.get("/v1/limits").1["users"].is_null());
    });
    drop(greedy);
    eventually("what is given back can be taken", || {
        as_user(OTHER, || all_streams(&daemon).0.len()) > others.len()
    });
    daemon.stop();
}

#[test]
fn limits_of_one_user_can_be_set() {
    let Some(daemon) = shared(100, |options| {
        options.max_connections_per_uid = Some(9);
        options.max_streams_per_uid = Some(5);
    }) else {
        return;
    };
    as_user(GREEDY, || {
        assert_eq!(limit(&daemon, "connections"), (1, 9));
        let (streams, refusal) = all_streams(&daemon);
        assert_eq!(streams.len(), 5);
        assert_eq!(refusal["code"], "too_many_streams");
        let busy: Vec<_> = (0..4).map(|_| slow_request(&daemon)).collect();
        eventually("the requests have started", || {
            // Answered from the outside, because this user has no place left.
            daemon.get("/v1/version").0 == 429
        });
        let (status, refusal) = daemon.get("/v1/version");
        assert_eq!(
            (status, &refusal["code"]),
            (429, &json!("too_many_connections"))
        );
        drop((streams, busy));
    });
    daemon.stop();
}

/// A connection whose request waits for its body, so that it is not idle.
fn slow_request(daemon: &Daemon) -> UnixStream {
    let mut stream = daemon.connect();
    let head = "POST /v1/sessions/register HTTP/1.1\r\nHost: l\r\nContent-Length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Sends requests on each of these connections without a pause, and counts the responses.
fn flood(connections: &mut [UnixStream], request: &[u8], answered: &AtomicU64, stop: &AtomicBool) {
    let mut part = [0; 8_192];
    for stream in &mut *connections {
        stream.set_nonblocking(true).unwrap();
        stream.write_all(request).unwrap();
    }
    while !stop.load(Ordering::Relaxed) {
        for stream in &mut *connections {
            match stream.read(&mut part) {
                Ok(0) => panic!("the daemon closed a connection"),
                Ok(_) => {
                    answered.fetch_add(1, Ordering::Relaxed);
                    stream.write_all(request).unwrap();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
}

#[test]
fn registrations_of_one_user_in_loops_delay_others_by_a_few_only() {
    let Some(daemon) = shared(400, |_| {}) else {
        return;
    };
    let test_process = TestProcess::start();
    let body = |token: u64| {
        json!({"token": format!("{token:064x}"), "session_id": "loop", "mesh": "dev",
            "display_name": "loop", "pid": test_process.pid()})
        .to_string()
    };
    let body = body(1);
    let length = body.len();
    let request = format!(
        "POST /v1/sessions/register HTTP/1.1\r\nHost: l\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let median = answered_before_another_users(&daemon, &test_process, &request, 2_000);
    assert!(median <= FEW, "{median}");
    daemon.stop();
}

/// Each of these lists visits all sessions of its user, in ten steps, and shows none.
#[test]
fn long_lists_of_one_user_in_loops_delay_others_by_a_few_steps_only() {
    let Some(daemon) = shared(400, |_| {}) else {
        return;
    };
    let test_process = TestProcess::start();
    as_user(GREEDY, || {
        let mut kept = daemon.kept();
        for token in 0..5_000_u64 {
            let body = json!({"token": format!("{:064x}", token + 10), "session_id": token.to_string(),
                "mesh": "dev", "display_name": "x", "pid": test_process.pid()});
            let body = body.to_string();
            let length = body.len();
            let request = format!(
                "POST /v1/sessions/register HTTP/1.1\r\nHost: l\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            kept.0.write_all(request.as_bytes()).unwrap();
            assert_eq!(kept.response().unwrap().0, 200);
        }
    });
    let request = "GET /v1/sessions?mesh=none HTTP/1.1\r\nHost: l\r\n\r\n";
    let median = answered_before_another_users(&daemon, &test_process, request, 300);
    // A step of each of the crowd would be 25 lists, for each time that the other request waits.
    assert!(median <= FEW / 4, "{median}");
    daemon.stop();
}

/// Returns how many requests of a crowd are answered before one of another user, as the median.
fn answered_before_another_users(
    daemon: &Daemon,
    test_process: &TestProcess,
    request: &str,
    warm_up: u64,
) -> u64 {
    as_user(OTHER, || {
        assert_eq!(daemon.register(2, "o", test_process.pid()).0, 200);
    });
    let (answered, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut delays = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            as_user(GREEDY, || {
                let mut all: Vec<_> = (0..CROWD).map(|_| daemon.connect()).collect();
                flood(&mut all, request.as_bytes(), &answered, &stop);
            });
        });
        let _stop = StopOnDrop(&stop);
        eventually("the flood runs", || {
            answered.load(Ordering::Relaxed) > warm_up
        });
        delays = as_user(OTHER, || {
            let mut kept = daemon.kept();
            let me = format!(
                "GET /v1/sessions/me HTTP/1.1\r\nHost: l\r\n{}\r\n",
                session_header(2)
            );
            let mut delay = || {
                let before = answered.load(Ordering::Relaxed);
                kept.0.write_all(me.as_bytes()).unwrap();
                assert_eq!(kept.response().unwrap().0, 200);
                answered.load(Ordering::Relaxed) - before
            };
            (0..200).map(|_| delay()).collect()
        });
    });
    delays.sort_unstable();
    let (median, p90) = (delays[100], delays[180]);
    let figures = format_args!("median {median}, p90 {p90} of {CROWD}");
    measured("answered to the other user before a `me`", figures);
    median
}

/// Bodies that arrive a byte at a time hold requests of their own user only, and for a bounded time.
#[test]
fn bodies_that_trickle_hold_only_their_users_requests_and_end_in_time() {
    let Some(daemon) = shared(200, |_| {}) else {
        return;
    };
    let test_process = TestProcess::start();
    let post = "POST /v1/sessions/register HTTP/1.1\r\nHost: l\r\nContent-Length: 60000\r\n\r\n";
    let began = Deadline::after(Duration::from_secs(40));
    let mut slow: Vec<UnixStream> = as_user(GREEDY, || {
        let open = |_| {
            let mut stream = daemon.connect();
            stream.write_all(post.as_bytes()).unwrap();
            stream
        };
        (0..100).map(open).collect()
    });
    let in_progress = || as_user(GREEDY, || limit(&daemon, "requests").0);
    eventually("they are in progress", || in_progress() > 100);
    as_user(OTHER, || {
        assert_eq!(daemon.register(2, "o", test_process.pid()).0, 200);
        me_works(&daemon, 2);
    });
    assert_eq!(daemon.register(3, "r", test_process.pid()).0, 200);
    eventually("they have ended", || {
        for stream in &mut slow {
            // Fails once the daemon has closed it.
            drop(stream.write_all(b" "));
        }
        in_progress() == 1
    });
    println!("ended after {:?}", began.elapsed());
    assert!(!began.has_passed());
    daemon.stop();
}

/// The connections of the user that floods.
const CROWD: usize = 256;
/// How many of its requests may be answered before one of another user: the few that start at once,
/// on each of two threads, and what the counting itself misses.
const FEW: u64 = 32;
