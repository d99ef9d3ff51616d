//! Forces pid reuses: a registered process dies and a successor gets its pid.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::daemon::{Events, TestDaemon};
use reaper_tests::expect::skip;
use reaper_tests::fork_server::{ForkServer, Kind, PidReuse, kill};
use reaper_tests::test_process::stat_field;
use reaper_tests::wait::Deadline;
use reaperd::client::{Client, Registered};
use rustix::io::Errno;
use serde_json::json;
use tokio::runtime::{self, Runtime};

use crate::tracker::Tracker;
use crate::{fork_server_keeping_zombies, is_root};

/// Reuses that are forced and checked together.
const BATCH: usize = 20;
/// More than a batch: the sweep distrusts a process table in which most pids have changed owner at
/// once.
const CONTROLS: usize = 60;
/// The loop's first rechecks of a suspect lie within this time. The later ones, up to four seconds
/// on, repeat the same check of the same process, so they give the same result.
const RECHECKED_FOR: Duration = Duration::from_millis(200);

const IDLE: Kind = Kind::Idle { megabytes: 0 };

/// When the successor gets the pid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum When {
    SameTick,
    TwoTicksLater,
}

/// A pid whose first owner died and whose successor is alive.
pub(crate) struct ReusedPid {
    /// The session of the first owner.
    pub(crate) first: String,
    pub(crate) pid: u32,
    /// What the daemon pinned the first owner by.
    pub(crate) identity: String,
    /// Both owners have the same start time, so `/proc` cannot tell them apart.
    pub(crate) same_tick: bool,
}

impl ReusedPid {
    /// The session of the successor.
    pub(crate) fn successor(&self) -> String {
        format!("successor of {}", self.first)
    }
}

pub(crate) struct ReuseRun {
    pub(crate) daemon: TestDaemon,
    pub(crate) tracker: Tracker,
    events: Events,
    fork_server: ForkServer,
    client: Client,
    runtime: Runtime,
    batches: usize,
    later_deaths: usize,
}

impl ReuseRun {
    pub(crate) fn new(daemon: TestDaemon) -> Self {
        Self {
            events: daemon.events(),
            client: daemon.client(),
            daemon,
            tracker: Tracker::allowing_pid_reuse(),
            fork_server: fork_server_keeping_zombies(),
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            batches: 0,
            later_deaths: 0,
        }
    }

    /// Registers controls until the daemon has no descriptor left to pin a process with.
    pub(crate) fn use_up_descriptors(&mut self) {
        let pids = self.fork_server.start(CONTROLS, IDLE).unwrap();
        let identities: BTreeSet<_> = pids
            .into_iter()
            .map(|pid| self.register(&format!("control {pid}"), pid))
            .collect();
        assert!(identities.contains("start_time"), "{identities:?}");
    }

    /// Registers like [`Tracker::register`], and returns what the daemon pins the process by.
    pub(crate) fn register(&mut self, id: &str, pid: u32) -> String {
        let token = self.next_token();
        let body = json!({
            "token": token.reveal().as_str(), "session_id": id, "mesh": "test",
            "display_name": id, "pid": pid,
        });
        let response = self.client.post("/v1/sessions/register", &body);
        let response: Registered = self.runtime.block_on(response).unwrap();
        self.tracker.add(id, pid, token);
        response.identity.expect("the response has an identity")
    }

    /// A token that no other session has.
    fn next_token(&self) -> Token {
        Token::parse(&format!("{:064x}", self.tracker.registered() + 1)).unwrap()
    }

    /// Registers some processes, ends them and gives their pids to successors. `None` where pids
    /// cannot be chosen.
    pub(crate) fn batch(&mut self, when: When) -> Option<Vec<ReusedPid>> {
        self.batches += 1;
        let ticks = if when == When::SameTick { 0 } else { 2 };
        let mut reused = Vec::new();
        for number in 0..BATCH {
            let first = format!("{}-{number}", self.batches);
            let token = self.next_token();
            let socket = self.daemon.socket();
            let pid_reuse = self.fork_server.pid_reuse(&socket, &token, &first, ticks);
            match pid_reuse {
                Ok(PidReuse {
                    pid,
                    start_time,
                    identity,
                }) => {
                    self.tracker.add(&first, pid, token);
                    reused.push(ReusedPid {
                        same_tick: stat_field(pid, 22).unwrap() == start_time.to_string(),
                        first: first.clone(),
                        pid,
                        identity,
                    });
                }
                // An unrelated process got the pid, which proves nothing.
                Err(error) if is(&error, Errno::EXIST) => self.tracker.add(&first, 0, token),
                Err(error) if is(&error, Errno::PERM) && !is_root() => {
                    skip(format_args!("pids cannot be chosen here: {error}"));
                    return None;
                }
                Err(error) => panic!("pid reuse: {error}"),
            }
            self.tracker.expect_end(&first, None);
        }
        Some(reused)
    }

    /// Waits until all expected removals have been reported.
    pub(crate) fn wait_for_removals(&mut self) {
        self.tracker.wait_for_removals(&mut self.events);
    }

    /// Returns once the daemon has rechecked everything that happened so far. Until then, further
    /// processes are ended and their removals awaited. With a quick sweep, a whole sweep lies
    /// between two of these removals.
    pub(crate) fn wait_for_rechecks(&mut self) {
        let rechecking = Deadline::after(RECHECKED_FOR);
        let mut removed = 0;
        while removed < 2 || !rechecking.has_passed() {
            let pid = self.fork_server.start_one(IDLE).unwrap();
            self.later_deaths += 1;
            let id = format!("later {}", self.later_deaths);
            self.register(&id, pid);
            self.tracker.expect_end(&id, None);
            kill(pid).unwrap();
            self.tracker.wait_for_removal_of(&mut self.events, &id);
            self.fork_server.reap(pid).unwrap();
            removed += 1;
        }
    }

    /// Returns the sessions of first owners that the daemon still lists.
    pub(crate) fn still_listed(&self, reused: &[&ReusedPid]) -> BTreeSet<String> {
        let listed = self.daemon.listed();
        reused
            .iter()
            .map(|one| &one.first)
            .filter(|first| listed.contains(*first))
            .cloned()
            .collect()
    }

    /// Ends the successors. This also removes the sessions of first owners that were mistaken for
    /// them.
    pub(crate) fn end(&mut self, reused: &[ReusedPid]) {
        for one in reused {
            kill(one.pid).unwrap();
            self.fork_server.reap(one.pid).unwrap();
        }
        self.wait_for_removals();
        self.tracker.check_against(&self.daemon);
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}
