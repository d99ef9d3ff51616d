//! Processes that an earlier process of this program has watched: they are pinned again, or found dead.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};

use reaper_registry::{BootTime, Death, Pid, ProcessId, Source, StartTime};

use super::{Entry, WatchSet, Watched};
use crate::watch::identity::{Identity, Recorded};

/// What is known of a process that was watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownProcess {
    pub(crate) id: ProcessId,
    pub(crate) pid: Pid,
    pub(crate) start_time: Option<StartTime>,
    pub(crate) inode: Option<u64>,
    /// A time at which it was alive.
    pub(crate) alive_at: BootTime,
    /// How many sessions it has.
    pub(crate) sessions: usize,
}

/// Processes that were looked for. Until they are given to [`WatchSet::restore`] nothing has changed.
#[derive(Debug, Default)]
pub(crate) struct PinnedAgain {
    alive: Vec<(KnownProcess, Identity)>,
    pub(crate) ended: Vec<(ProcessId, Death)>,
}

impl Watched {
    /// Returns the inode number of its pidfd, where the system has such numbers.
    pub(crate) fn inode(&self) -> Option<u64> {
        self.identity().inode
    }
}

impl WatchSet {
    /// Looks for these processes and pins those that are alive. Reads only.
    pub(crate) fn pin_again(&self, known: &[KnownProcess]) -> PinnedAgain {
        let mut pinned = PinnedAgain::default();
        for process in known {
            let recorded = Recorded {
                pid: process.pid,
                start_time: process.start_time,
                inode: process.inode,
                alive_at: process.alive_at,
            };
            match Identity::pin_again(self.table.as_ref(), &self.budget, &recorded) {
                Ok(identity) => pinned.alive.push((*process, identity)),
                Err(gone) => {
                    let death = Death {
                        source: Source::Restart,
                        evidence: gone.evidence,
                        pid_reused: gone.pid_reused,
                        exit: gone.exit,
                        detection: None,
                    };
                    pinned.ended.push((process.id, death));
                }
            }
        }
        pinned
    }

    /// Watches processes that were pinned again, under their former ids. Ids from `next` on are new.
    pub(crate) fn restore(&self, pinned: PinnedAgain, next: u64) {
        let mut entries = self.entries();
        entries.next_id = entries.next_id.max(next.saturating_sub(1));
        for (process, identity) in pinned.alive {
            let KnownProcess { id, pid, .. } = process;
            let watched = Arc::new(Watched {
                id,
                pid,
                identity: RwLock::new(identity),
                is_ordinary: AtomicBool::new(false),
                // No source runs yet. Each one arms every entry when it is attached.
                is_armed: AtomicBool::new(true),
                is_covered: AtomicBool::new(false),
                is_gone: AtomicBool::new(false),
            });
            let references = process.sessions;
            entries.by_id.insert(
                id,
                Entry {
                    watched,
                    references,
                },
            );
            entries.by_pid.insert((pid, id));
        }
    }
}
