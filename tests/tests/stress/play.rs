//! Numbers with two owners, one after the other: how they come about, and what is asked of the
//! daemon about them.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::daemon::{Events, TestDaemon};
use reaper_tests::expect::skip;
use reaper_tests::fork_server::{ForkServer, Kind, PidReuse, kill};
use reaper_tests::wait::{Deadline, TIMEOUT};
use reaperd::client::{Client, Registered};
use rustix::io::Errno;
use serde_json::json;
use tokio::runtime::{self, Runtime};

use crate::tracker::Tracker;
use crate::{fork_server_keeping_zombies, is_root};

/// Numbers whose fate is looked at together.
const BATCH: usize = 20;
/// More than a batch: the sweep believes no table in which most numbers have changed hands at once.
const CONTROLS: usize = 60;
/// All looks that the loop takes at every suspect lie within this time. The later ones, up to four
/// seconds on, ask the same of the same process: an successor that passes for the dead does so by each.
const LOOKED_AGAIN_FOR: Duration = Duration::from_millis(200);

const IDLE: Kind = Kind::Idle { megabytes: 0 };

/// When the number goes to the successor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum When {
    WithinTheTick,
    TwoTicksLater,
}

/// A number's two owners.
pub(crate) struct Life {
    pub(crate) first: String,
    pub(crate) pid: u32,
    /// What pinned the first, as its registration was answered.
    pub(crate) identity: String,
    /// Nothing that `/proc` tells sets the two apart.
    pub(crate) same_tick: bool,
}

impl Life {
    pub(crate) fn successor(&self) -> String {
        format!("successor of {}", self.first)
    }
}

pub(crate) struct Play {
    pub(crate) daemon: TestDaemon,
    pub(crate) tracker: Tracker,
    events: Events,
    fork_server: ForkServer,
    client: Client,
    runtime: Runtime,
    batches: usize,
    others: usize,
}

impl Play {
    pub(crate) fn new(daemon: TestDaemon) -> Self {
        Self {
            events: daemon.events(),
            client: Client::new(daemon.socket()).with_time_limit(TIMEOUT),
            daemon,
            tracker: Tracker::of_successors(),
            fork_server: fork_server_keeping_zombies(),
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            batches: 0,
            others: 0,
        }
    }

    /// Controls, until no descriptor is left to pin anybody with.
    pub(crate) fn use_up_descriptors(&mut self) {
        let pids = self.fork_server.start(CONTROLS, IDLE).unwrap();
        let identities: BTreeSet<_> = pids
            .into_iter()
            .map(|pid| self.register(&format!("control {pid}"), pid))
            .collect();
        assert!(identities.contains("start_time"), "{identities:?}");
    }

    /// Registers like [`Tracker::register`], and answers with what pins the process.
    pub(crate) fn register(&mut self, id: &str, pid: u32) -> String {
        let token = self.next_token();
        let body = json!({
            "token": token.reveal().as_str(), "session_id": id, "mesh": "test",
            "display_name": id, "pid": pid,
        });
        let answer = self.client.post("/v1/sessions/register", &body);
        let answer: Registered = self.runtime.block_on(answer).unwrap();
        self.tracker.open(id, pid, token);
        answer.identity.expect("it is told")
    }

    /// No two sessions share one.
    fn next_token(&self) -> Token {
        Token::parse(&format!("{:064x}", self.tracker.registered() + 1)).unwrap()
    }

    /// Some numbers whose first owner was registered and replaced. `None` where numbers cannot be
    /// chosen.
    pub(crate) fn batch(&mut self, when: When) -> Option<Vec<Life>> {
        self.batches += 1;
        let ticks = if when == When::WithinTheTick { 0 } else { 2 };
        let mut lives = Vec::new();
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
                    self.tracker.open(&first, pid, token);
                    lives.push(Life {
                        same_tick: start_time == start_time_of(pid),
                        first: first.clone(),
                        pid,
                        identity,
                    });
                }
                // It went to a unrelated process, which proves nothing.
                Err(error) if is(&error, Errno::EXIST) => self.tracker.open(&first, 0, token),
                Err(error) if is(&error, Errno::PERM) && !is_root() => {
                    skip(format_args!("no process under a chosen pid here: {error}"));
                    return None;
                }
                Err(error) => panic!("twins: {error}"),
            }
            self.tracker.doom(&first, None);
        }
        Some(lives)
    }

    /// Waits for all that are doomed to be removed.
    pub(crate) fn settle(&mut self) {
        self.tracker.settle(&mut self.events);
    }

    /// Returns when whatever has happened so far has been looked at for the last time: others have
    /// ended later and were told of, until no look is left that could say anything new. With a quick
    /// sweep, one whole sweep has passed as well: it lies between the ends of two of these others.
    pub(crate) fn looked_at_for_the_last_time(&mut self) {
        let looking = Deadline::after(LOOKED_AGAIN_FOR);
        let mut seen = 0;
        while seen < 2 || !looking.has_passed() {
            let pid = self.fork_server.start_one(IDLE).unwrap();
            self.others += 1;
            let id = format!("other {}", self.others);
            self.register(&id, pid);
            self.tracker.doom(&id, None);
            kill(pid).unwrap();
            self.tracker.settle_one(&mut self.events, &id);
            self.fork_server.reap(pid).unwrap();
            seen += 1;
        }
    }

    /// Those of the first owners that the daemon still lists.
    pub(crate) fn probe_health(&self, lives: &[&Life]) -> BTreeSet<String> {
        let listed = self.daemon.list().into_iter().map(|it| it.session_id);
        let listed: BTreeSet<_> = listed.collect();
        lives
            .iter()
            .map(|life| &life.first)
            .filter(|first| listed.contains(*first))
            .cloned()
            .collect()
    }

    /// Ends the successors; with them go those who were taken for them.
    pub(crate) fn end(&mut self, lives: &[Life]) {
        for life in lives {
            kill(life.pid).unwrap();
            self.fork_server.reap(life.pid).unwrap();
        }
        self.settle();
        self.tracker.agree(&self.daemon);
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}

/// Field 22 of `/proc/PID/stat`, in ticks.
fn start_time_of(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(19).unwrap().parse().unwrap()
}
