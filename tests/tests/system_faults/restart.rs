//! The daemon is killed in the middle of its work, and another one takes its place: it knows nobody,
//! and is told anew by those who are asked to. Nothing of the first one is in its way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, TestDaemon, session_of};
use reaper_tests::wait::eventually;
use reaperd::client::{Client, SessionList};

use crate::life::the_dead_go_and_the_living_stays;
use crate::{Extent, extent};

/// Who is registered while nobody disturbs.
const SETTLED: usize = 5;
/// Who asks, each on connections of its own, until the daemon is killed.
const LOAD: usize = 4;

fn rounds() -> usize {
    match extent() {
        Extent::Bounded => 10,
        Extent::Whole => 1_000,
    }
}

/// Set when it is dropped, so that no failure leaves the load running.
struct Over<'flag>(&'flag AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Keeps the daemon busy until it has answered so often, and after that until it is killed.
fn killed_under_load(daemon: TestDaemon, answers: usize, launch: &Launch) -> TestDaemon {
    let answered = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let socket = daemon.socket();
    thread::scope(|scope| {
        let _over = Over(&over);
        for _ in 0..LOAD {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let client = Client::new(&socket);
                while !over.load(Ordering::Relaxed) {
                    let list = runtime.block_on(client.get::<SessionList>("/v1/sessions"));
                    match list {
                        Ok(_) => _ = answered.fetch_add(1, Ordering::Relaxed),
                        // There is none for a moment, and the next one needs the processor.
                        Err(_) => thread::sleep(Duration::from_millis(1)),
                    }
                }
            });
        }
        eventually("it has answered so often", || {
            answered.load(Ordering::Relaxed) >= answers
        });
        daemon.replaced_by(launch)
    })
}

#[test]
fn whoever_follows_a_killed_daemon_knows_nobody_and_takes_everybody() {
    let launch = Launch::with(&["--sweep-interval", "500ms"]);
    let mut daemon = launch.start();
    let settled = Crowd::start(SETTLED).unwrap();
    for round in 0..rounds() {
        let tokens: Vec<Token> = settled
            .pids()
            .map(|pid| daemon.register(&session_of(pid), pid))
            .collect();
        assert!(tokens.iter().all(|token| daemon.accepts(token)));
        // At another moment each time.
        daemon = killed_under_load(daemon, 10 + round % 97, &launch);
        assert_eq!(daemon.list(), [], "it knows somebody");
        assert!(!tokens.iter().any(|token| daemon.accepts(token)));
    }
    daemon.register_all(settled.pids());
    the_dead_go_and_the_living_stays(&daemon, &settled, || {});
    daemon.stop();
}
