//! Clients at work while the daemon is replaced again and again: none of their requests fails.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::expect;
use reaper_tests::scale::scaled;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{Deadline, TIMEOUT, eventually};
use reaperd::testkit::clock::monotonic_ns;

use super::client::Connection;
use super::successor;

/// Requests a second of all clients together.
const RATE: usize = 2_000;
const KEPT: usize = 6;
const NEW: usize = 2;
/// Registrations a second.
const REGISTRATIONS: usize = 100;
/// Sessions whose tokens are looked up.
const SESSIONS: usize = 50;

/// What all clients share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicUsize,
    /// In milliseconds.
    slowest: AtomicUsize,
    failed: Mutex<Vec<String>>,
    registered: Mutex<Vec<String>>,
}

impl Shared {
    /// Sends requests at this rate until the end, each by `request`.
    fn run(&self, rate: usize, mut request: impl FnMut(usize) -> io::Result<u16>) {
        let pause_ns = 1_000_000_000 / rate as u64;
        let mut due_ns = monotonic_ns();
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let began = Deadline::after(TIMEOUT);
            match request(number) {
                Ok(200) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                outcome => {
                    let mut failed = self.failed.lock().unwrap();
                    failed.push(format!("{outcome:?} in request {number}"));
                    return;
                }
            }
            let took = usize::try_from(began.elapsed().as_millis()).unwrap();
            self.slowest.fetch_max(took, Ordering::Relaxed);
            // What was late is made up for, so that the rate is that of the whole time.
            due_ns += pause_ns;
            thread::sleep(Duration::from_nanos(due_ns.saturating_sub(monotonic_ns())));
        }
    }
}

fn token(number: usize) -> String {
    format!("{number:064x}")
}

/// A thread with this client.
fn client(
    shared: &Arc<Shared>,
    socket: &Path,
    run: impl FnOnce(&Shared, PathBuf) + Send + 'static,
) -> JoinHandle<()> {
    let (shared, socket) = (shared.clone(), socket.to_owned());
    thread::spawn(move || run(&shared, socket))
}

#[test]
fn no_request_fails_while_the_daemon_is_replaced_again_and_again() {
    let replacements = scaled(50, 5);
    let between = scaled(RATE, RATE / 10);
    let mut daemon = TestDaemon::start(&[]);
    let mut process = TestProcess::start();
    let pid = process.pid();
    let socket = daemon.socket();
    let mut first = Connection::open(&socket).unwrap();
    for number in 0..SESSIONS {
        let status = first.register(&token(number), &format!("s-{number}"), pid);
        assert_eq!(status.unwrap(), 200);
    }
    let shared = Arc::new(Shared::default());
    let mut clients = Vec::new();
    for _ in 0..KEPT {
        clients.push(client(&shared, &socket, |shared, socket| {
            let mut kept = Connection::open(&socket).unwrap();
            shared.run(RATE / (KEPT + NEW), |number| {
                let token = token(number % SESSIONS);
                kept.get("/v1/sessions/me", Some(&token))
                    .map(|(status, _)| status)
            });
        }));
    }
    for _ in 0..NEW {
        clients.push(client(&shared, &socket, |shared, socket| {
            shared.run(RATE / (KEPT + NEW), |number| {
                let token = token(number % SESSIONS);
                let mut new = Connection::open(&socket)?;
                new.get("/v1/sessions/me", Some(&token))
                    .map(|(status, _)| status)
            });
        }));
    }
    clients.push(client(&shared, &socket, move |shared, socket| {
        let mut kept = Connection::open(&socket).unwrap();
        shared.run(REGISTRATIONS, |number| {
            let token = token(1_000 + number);
            let status = kept.register(&token, &format!("r-{number}"), pid)?;
            if status == 200 {
                shared.registered.lock().unwrap().push(token);
            }
            Ok(status)
        });
    }));

    let began = Deadline::after(TIMEOUT);
    for _ in 0..replacements {
        let before = shared.answered.load(Ordering::Relaxed);
        eventually("requests are answered", || {
            shared.answered.load(Ordering::Relaxed) > before + between
                || !shared.failed.lock().unwrap().is_empty()
        });
        daemon.hand_over_to(&successor());
    }
    shared.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let answered = shared.answered.load(Ordering::Relaxed);
    let per_second = answered as u128 * 1_000 / began.elapsed().as_millis();
    expect::measured("requests during replacements", answered);
    expect::measured("requests a second", per_second);
    expect::measured("slowest in ms", shared.slowest.load(Ordering::Relaxed));
    let failed = shared.failed.lock().unwrap();
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());

    let registered = shared.registered.lock().unwrap();
    assert!(!registered.is_empty());
    let mut kept = Connection::open(&socket).unwrap();
    for token in registered.iter() {
        let (status, _) = kept.get("/v1/sessions/me", Some(token)).unwrap();
        assert_eq!(status, 200, "a session was lost");
    }
    assert_eq!(daemon.list().len(), SESSIONS + registered.len());
    process.kill();
    eventually("all are removed", || daemon.list().is_empty());
    daemon.stop();
}
