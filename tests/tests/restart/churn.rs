//! `kill -9` of the worker at random instants, while sessions are registered, renewed, replaced and
//! removed, and processes end. After each kill the sessions must be what the answers said.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::thread;
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::daemon::TestDaemon;
use reaper_tests::scale::scaled;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;
use reaperd::client::ClientError;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::history::History;
use crate::replaced::worker_of;

const PROCESSES: usize = 6;
const IDS: u64 = 12;

/// A random number below this.
pub(crate) fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// What the answers so far allow to be registered under an id: of each process that it may belong to, the
/// pid and the token; `None`: nothing.
type Possible = Vec<Option<(u32, Token)>>;

/// The sessions as the answers have them.
pub(crate) struct Oracle {
    pub(crate) history: History,
    possible: BTreeMap<String, Possible>,
    processes: Vec<TestProcess>,
    pub(crate) operations: usize,
    /// Operations without an answer: the worker was killed in or around them.
    pub(crate) unanswered: usize,
}

impl Oracle {
    pub(crate) fn begin(daemon: &TestDaemon) -> Self {
        Self {
            history: History::begin(daemon),
            possible: BTreeMap::new(),
            processes: (0..PROCESSES).map(|_| TestProcess::start()).collect(),
            operations: 0,
            unanswered: 0,
        }
    }

    /// Does one thing. Returns whether it was answered.
    pub(crate) fn operate(&mut self, daemon: &TestDaemon) -> bool {
        let id = format!("s-{}", random(IDS));
        self.operations += 1;
        let possible = self
            .possible
            .entry(id.clone())
            .or_insert_with(|| vec![None]);
        let outcome = match random(8) {
            0 => {
                let which = usize::try_from(random(PROCESSES as u64)).unwrap();
                self.processes[which] = TestProcess::start();
                return true;
            }
            1 | 2 => {
                let result = match possible.last() {
                    Some(Some((_, token))) => daemon.remove(token),
                    _ => return true,
                };
                let is_gone =
                    |error: &ClientError| matches!(error, ClientError::Problem { status: 401, .. });
                match result {
                    Err(error) if is_gone(&error) => Ok(None),
                    other => other.map(|()| None),
                }
                .map_err(|error| (error, None))
            }
            _ => {
                let which = usize::try_from(random(PROCESSES as u64)).unwrap();
                let pid = self.processes[which].pid();
                let registered = daemon.try_register(&id, pid);
                let token = || TestDaemon::token_of(&id, pid);
                match registered {
                    Ok(token) => Ok(Some((pid, token))),
                    Err(error) => Err((error, Some((pid, token())))),
                }
            }
        };
        match outcome {
            Ok(now) => *possible = vec![now],
            Err((error, may_be)) => {
                let is_refusal = matches!(
                    error,
                    ClientError::Problem { .. } | ClientError::NoDaemon { .. }
                );
                assert!(!is_refusal, "{error}\n{}", daemon.log());
                self.unanswered += 1;
                possible.push(may_be);
                return false;
            }
        }
        true
    }

    /// Compares the daemon with what the answers allow.
    pub(crate) fn check(&mut self, daemon: &TestDaemon) {
        let living: Vec<_> = self.processes.iter().map(TestProcess::pid).collect();
        let is_of_dead = |pid: u32| pid != std::process::id() && !living.contains(&pid);
        let mut listed = BTreeMap::new();
        eventually("sessions of dead processes are gone", || {
            let now = daemon.list();
            listed = now
                .iter()
                .map(|it| (it.session_id.clone(), it.pid))
                .collect();
            assert_eq!(listed.len(), now.len(), "a session is listed twice");
            !listed.values().any(|pid| is_of_dead(*pid))
        });
        for (id, possible) in &mut self.possible {
            let found = listed.get(id).copied();
            let pids = |it: &Option<(u32, Token)>| it.as_ref().map(|(pid, _)| *pid);
            let allowed = possible.iter().any(|it| match pids(it) {
                Some(pid) if is_of_dead(pid) => found.is_none(),
                pid => pid == found,
            });
            let all: Vec<_> = possible.iter().map(pids).collect();
            assert!(allowed, "{id}: {found:?} of {all:?}\n{}", daemon.log());
            for (pid, token) in possible.iter().flatten() {
                assert_eq!(daemon.accepts(token), Some(*pid) == found, "{id}");
            }
            possible.retain(|it| pids(it) == found && found.is_some());
            possible.truncate(1);
            if possible.is_empty() {
                possible.push(None);
            }
        }
        self.history.read_on(daemon);
        let mut live: Vec<_> = self.history.live().into_iter().collect();
        live.sort();
        let without_markers = |id: &&String| !id.starts_with("marker-");
        let expected: Vec<_> = listed.keys().filter(without_markers).cloned().collect();
        assert_eq!(live, expected, "events and list are one story");
    }
}

#[test]
fn nothing_is_lost_doubled_or_resurrected_by_kills_of_the_worker() {
    let kills = scaled(1_000, 60);
    // The numbers of events must go on although the history is short.
    let daemon = TestDaemon::start(&["--sweep-interval", "500ms"]);
    let mut oracle = Oracle::begin(&daemon);
    let mut killed = 0;
    let mut in_a_start = 0;
    while killed < kills {
        let pause = Duration::from_micros(random(15_000));
        let worker = worker_of(&daemon);
        let kill = thread::spawn(move || {
            thread::sleep(pause);
            worker.is_some_and(|worker| kill_process(worker, Signal::KILL).is_ok())
        });
        while oracle.operate(&daemon) && !kill.is_finished() {}
        killed += usize::from(kill.join().unwrap());
        // Some of the next workers are killed in their start.
        if random(3) == 0 {
            thread::sleep(Duration::from_micros(random(40_000)));
            let next = worker_of(&daemon).filter(|next| Some(*next) != worker);
            let is_killed = next.is_some_and(|next| kill_process(next, Signal::KILL).is_ok());
            killed += usize::from(is_killed);
            in_a_start += usize::from(is_killed);
        }
        let former = worker;
        eventually("another worker serves", || {
            let health = daemon.get::<Value>("/v1/health");
            let pid = former.map_or(0, |it| it.as_raw_nonzero().get());
            health.is_ok_and(|health| health["pid"] != pid)
        });
        oracle.check(&daemon);
    }
    let log = daemon.log();
    let of_ready = log.matches("starting another worker").count();
    println!(
        "{killed} kills, {of_ready} of workers that served, {} before that, {in_a_start} aimed at a \
         start; {} operations, {} without an answer; {} events; removals {:?}",
        killed - of_ready.min(killed),
        oracle.operations,
        oracle.unanswered,
        oracle.history.events,
        oracle.history.removals,
    );
    assert!(!log.contains("are not carried over"), "{log}");
    assert!(!log.contains("damaged"), "{log}");
    daemon.stop();
}
