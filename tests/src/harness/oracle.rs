//! Sessions that are registered, renewed, replaced and removed at random, whose processes end, and what the
//! answers allow the daemon to have at any time.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use reaper_registry::Token;
use reaperd::client::ClientError;

use crate::daemon::Requests;
use crate::history::History;
use crate::test_process::TestProcess;
use crate::wait::eventually;

const PROCESSES: usize = 6;
const IDS: u64 = 12;

/// A random number below this.
pub fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// What the answers so far allow to be registered under an id: of each process that it may belong to, the
/// pid and the token; `None`: nothing.
type Possible = Vec<Option<(u32, Token)>>;

/// The sessions as the answers have them.
pub struct Oracle {
    /// The events.
    pub history: History,
    possible: BTreeMap<String, Possible>,
    processes: Vec<TestProcess>,
    /// How many were done.
    pub operations: usize,
    /// Operations without an answer: the worker was killed in or around them.
    pub unanswered: usize,
}

impl Oracle {
    pub fn begin(daemon: &Requests) -> Self {
        Self {
            history: History::begin(daemon),
            possible: BTreeMap::new(),
            processes: (0..PROCESSES).map(|_| TestProcess::start()).collect(),
            operations: 0,
            unanswered: 0,
        }
    }

    /// Does one thing. Returns whether it was answered.
    pub fn operate(&mut self, daemon: &Requests) -> bool {
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
                let token = || Requests::token_of(&id, pid);
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
    pub fn check(&mut self, daemon: &Requests) {
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
