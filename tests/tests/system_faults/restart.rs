//! The daemon is killed under load and another one takes its place. The new one has no sessions,
//! the clients can register again, and nothing that the first one left behind is in the way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, TestDaemon, session_of};
use reaper_tests::wait::eventually;
use reaperd::client::{Client, SessionList};

use crate::scenario::check_removals;
use crate::{Extent, extent};

/// Processes that are registered before the load starts.
const REGISTERED: usize = 5;
/// Threads that send requests until the daemon is killed.
const CLIENTS: usize = 4;

fn rounds() -> usize {
    match extent() {
        Extent::Bounded => 10,
        Extent::Whole => 1_000,
    }
}

/// Sets the flag on drop, so that a failure does not leave the clients running.
struct StopOnDrop<'flag>(&'flag AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Keeps the daemon busy and kills it once it has served this many requests. Returns its successor.
fn replace_under_load(daemon: TestDaemon, requests: usize, launch: &Launch) -> TestDaemon {
    let served = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let socket = daemon.socket();
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let client = Client::new(&socket);
                while !stop.load(Ordering::Relaxed) {
                    let list = runtime.block_on(client.get::<SessionList>("/v1/sessions"));
                    match list {
                        Ok(_) => _ = served.fetch_add(1, Ordering::Relaxed),
                        // No daemon for a moment; the next one needs the processor to start.
                        Err(_) => thread::sleep(Duration::from_millis(1)),
                    }
                }
            });
        }
        eventually("the daemon has served the requests", || {
            served.load(Ordering::Relaxed) >= requests
        });
        daemon.replaced_by(launch)
    })
}

#[test]
fn the_successor_of_a_killed_daemon_starts_empty_and_accepts_all_registrations() {
    let launch = Launch::with(&["--sweep-interval", "500ms"]);
    let mut daemon = launch.start();
    let crowd = Crowd::start(REGISTERED).unwrap();
    for round in 0..rounds() {
        let tokens: Vec<Token> = crowd
            .pids()
            .map(|pid| daemon.register(&session_of(pid), pid))
            .collect();
        assert!(tokens.iter().all(|token| daemon.accepts(token)));
        // Kills the daemon at another moment each time.
        daemon = replace_under_load(daemon, 10 + round % 97, &launch);
        assert_eq!(daemon.list(), [], "the successor starts empty");
        assert!(!tokens.iter().any(|token| daemon.accepts(token)));
    }
    daemon.register_all(crowd.pids());
    check_removals(&daemon, &crowd, || {});
    daemon.stop();
}
