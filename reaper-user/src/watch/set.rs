//! The set of watched processes: its entries, their identities, and the sources armed for them. It
//! alone owns identities, and it has no notion of sessions.
//!
//! One process is one entry, however many sessions refer to it, so it costs one descriptor and one
//! verdict. Entries are reference-counted; dropping the last reference removes the entry.
//!
//! # Lock order
//!
//! No lock is held while a source, a hook or an embedder's callback runs, so each of these may call
//! back into the set and into the registry. Only these locks are held together, the left one first:
//!
//! * registry table → a session's secret key, token index shard, event log, tombstones, hook
//!   queues. The five are taken one at a time, for one operation each.
//! * identities of several processes, for reading only: the sweep holds up to 512 while it polls.
//!   `complete` and `promote` hold one for writing, and meanwhile read the process table and take a
//!   slot of the descriptor budget, which is an atomic counter and not a lock.
//! * the receiver of hints, which the loop holds for as long as it runs, before anything else.
//!
//! All others are taken with none of these held: entries, arms, status board, each source's record
//! of its armed processes, the watches of an `ExitWatcher`, the work queue of the hook threads.

mod guard;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use reaper_registry::{BootTime, Exit, ExitStatus, Pid, ProcessId, Source, StartTime};

pub(crate) use self::guard::WatchGuard;
use crate::sys::process_table::ProcessTable;
use crate::watch::fd_budget::FdBudget;
use crate::watch::hint::{Hint, HintSender};
use crate::watch::identity::{Identity, IdentityStrength, WatchError};
use crate::watch::verdict::{GroupDead, Verdict, judge};

/// A watched process.
#[derive(Debug)]
pub(crate) struct Watched {
    pub id: ProcessId,
    pub pid: Pid,
    /// Behind a lock because a stronger handle may replace a weaker one, and a start time that
    /// could not be read at first may be read later.
    identity: RwLock<Identity>,
    /// It is known not to be a kernel thread. A process never becomes one.
    is_ordinary: AtomicBool,
    /// Every source has been armed for it.
    is_armed: AtomicBool,
    /// A recheck after that found its exit ahead, so every source that runs sees it.
    is_covered: AtomicBool,
    /// It was found gone. Set before anything is removed for that.
    is_gone: AtomicBool,
}

impl Watched {
    /// Judges the process; see [`judge`].
    pub(crate) fn judge(&self, group_dead: Option<GroupDead>, table: &dyn ProcessTable) -> Verdict {
        let verdict = judge(&self.identity(), group_dead, table);
        if let Verdict::Gone { .. } = verdict {
            self.is_gone.store(true, Ordering::Release);
        }
        verdict
    }

    /// Calls `use_it` with the pidfd, if one is open.
    pub(crate) fn with_pidfd<T>(&self, use_it: impl FnOnce(Option<BorrowedFd<'_>>) -> T) -> T {
        use_it(self.identity().pidfd())
    }

    /// Returns whether it is a kernel thread. A kernel thread that executes a program becomes an
    /// ordinary process, so only `false` is cached.
    pub(crate) fn is_kernel_thread(&self, table: &dyn ProcessTable) -> bool {
        if self.is_ordinary.load(Ordering::Relaxed) {
            return false;
        }
        match table.stat(self.pid) {
            Ok(stat) => {
                // Valid only if the process is still alive: the pid may have been reused.
                if !stat.kernel_thread && matches!(self.judge(None, table), Verdict::Alive) {
                    self.is_ordinary.store(true, Ordering::Relaxed);
                }
                stat.kernel_thread
            }
            Err(_) => false,
        }
    }

    /// Returns its start time; `None` until that can be read.
    pub(crate) fn start_time(&self) -> Option<StartTime> {
        self.identity().start_time
    }

    /// Returns what identifies the process.
    pub(crate) fn strength(&self) -> IdentityStrength {
        self.identity().strength()
    }

    /// Returns the exit status that the system still has: that of the process, where events have
    /// those of threads.
    pub(crate) fn exit(&self, table: &dyn ProcessTable) -> Option<Exit> {
        let status = self.identity().wait_status(table)?;
        Some(Exit {
            status: ExitStatus::from_wait_status(status),
            from: Source::Pidfd,
        })
    }

    pub(crate) fn identity(&self) -> RwLockReadGuard<'_, Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a source does for each process. The set calls `arm` when it starts to watch a process,
/// before that process is rechecked. Both must be quick, and arming twice must be harmless.
pub(crate) trait Arm: Send + Sync {
    fn arm(&self, watched: &Watched);
    fn disarm(&self, watched: &Watched);
}

/// The set of watched processes.
pub(crate) struct WatchSet {
    pub(crate) table: Arc<dyn ProcessTable>,
    pub(crate) budget: Arc<FdBudget>,
    pub(crate) hints: HintSender,
    entries: Mutex<Entries>,
    arms: RwLock<Arms>,
    /// When the last complete sweep began, on the boot clock; zero before the first.
    swept_at_ns: AtomicU64,
}

/// Replaced as a whole when a source starts or stops, which is rare; read for each registration.
type Arms = Arc<Vec<(u64, Arc<dyn Arm>)>>;

#[derive(Default)]
struct Entries {
    next_id: u64,
    by_id: BTreeMap<ProcessId, Entry>,
    by_pid: BTreeSet<(Pid, ProcessId)>,
}

impl Entries {
    fn ids_with_pid(&self, pid: Pid) -> impl Iterator<Item = ProcessId> {
        let range = (pid, ProcessId(0))..=(pid, ProcessId(u64::MAX));
        self.by_pid.range(range).map(|(_, id)| *id)
    }
}

struct Entry {
    watched: Arc<Watched>,
    references: usize,
}

impl WatchSet {
    pub(crate) fn new(
        table: Arc<dyn ProcessTable>,
        budget: Arc<FdBudget>,
        hints: HintSender,
    ) -> Arc<Self> {
        Arc::new(Self {
            table,
            budget,
            hints,
            entries: Mutex::default(),
            arms: RwLock::default(),
            swept_at_ns: AtomicU64::new(0),
        })
    }

    /// Returns when the last complete sweep began. Every process that is still watched was alive
    /// then, or its state was unknown.
    pub(crate) fn swept_at(&self) -> Option<BootTime> {
        let nanos = self.swept_at_ns.load(Ordering::Relaxed);
        (nanos > 0).then_some(BootTime::from_nanos(nanos))
    }

    pub(crate) fn mark_swept(&self, began: BootTime) {
        self.swept_at_ns.store(began.as_nanos(), Ordering::Relaxed);
    }

    /// Starts watching the process that has this pid now, or adds a reference to its entry.
    ///
    /// The caller stores what depends on the process and then calls [`WatchGuard::recheck`]. Only
    /// then can no death be missed between reading the identity and arming the sources.
    pub(crate) fn watch(self: &Arc<Self>, pid: Pid) -> Result<WatchGuard, WatchError> {
        if let Some(guard) = self.reuse_entry(pid) {
            return Ok(guard);
        }
        let identity = Identity::pin(self.table.as_ref(), &self.budget, pid)?;
        let watched = {
            let mut entries = self.entries();
            entries.next_id += 1;
            let id = ProcessId(entries.next_id);
            let watched = Arc::new(Watched {
                id,
                pid,
                identity: RwLock::new(identity),
                is_ordinary: AtomicBool::new(false),
                is_armed: AtomicBool::new(false),
                is_covered: AtomicBool::new(false),
                is_gone: AtomicBool::new(false),
            });
            entries.by_id.insert(
                id,
                Entry {
                    watched: watched.clone(),
                    references: 1,
                },
            );
            entries.by_pid.insert((pid, id));
            watched
        };
        self.for_each_arm(|arm| arm.arm(&watched));
        watched.is_armed.store(true, Ordering::Release);
        Ok(self.guard(watched))
    }

    fn guard(self: &Arc<Self>, watched: Arc<Watched>) -> WatchGuard {
        WatchGuard {
            set: self.clone(),
            watched,
            detached: false,
        }
    }

    /// Adds a reference to the entry of this pid if its process is alive. Otherwise sends a hint:
    /// the pid may belong to another process now.
    fn reuse_entry(self: &Arc<Self>, pid: Pid) -> Option<WatchGuard> {
        for watched in self.with_pid(pid) {
            if !matches!(watched.judge(None, self.table.as_ref()), Verdict::Alive) {
                self.hints.send(Hint::check(watched.id, Source::Register));
                continue;
            }
            let mut entries = self.entries();
            if let Some(entry) = entries.by_id.get_mut(&watched.id) {
                entry.references += 1;
                drop(entries);
                return Some(self.guard(watched));
            }
        }
        None
    }

    /// Drops one reference of a guard that was detached.
    pub(crate) fn release(&self, id: ProcessId) {
        let removed = {
            let mut entries = self.entries();
            let Some(entry) = entries.by_id.get_mut(&id) else {
                return;
            };
            entry.references -= 1;
            if entry.references > 0 {
                return;
            }
            let removed = entries.by_id.remove(&id).map(|entry| entry.watched);
            if let Some(watched) = &removed {
                entries.by_pid.remove(&(watched.pid, id));
            }
            removed
        };
        if let Some(watched) = removed {
            self.for_each_arm(|arm| arm.disarm(&watched));
        }
    }

    /// Returns the entry, if it is still watched.
    pub(crate) fn get(&self, id: ProcessId) -> Option<Arc<Watched>> {
        let entries = self.entries();
        Some(entries.by_id.get(&id)?.watched.clone())
    }

    /// Returns the entries under this pid: mostly one, two while a dead process's pid is reused.
    pub(crate) fn with_pid(&self, pid: Pid) -> Vec<Arc<Watched>> {
        let entries = self.entries();
        entries
            .ids_with_pid(pid)
            .filter_map(|id| entries.by_id.get(&id).map(|entry| entry.watched.clone()))
            .collect()
    }

    /// Returns the ids of the entries under this pid, as [`Self::with_pid`] does.
    pub(crate) fn ids_with_pid(&self, pid: Pid) -> Vec<ProcessId> {
        let entries = self.entries();
        entries.ids_with_pid(pid).collect()
    }

    /// Returns up to `count` entries after `after`, in an order that is stable under changes.
    pub(crate) fn slice_after(&self, after: Option<ProcessId>, count: usize) -> Vec<Arc<Watched>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.entries();
        let range = entries.by_id.range((from, Bound::Unbounded));
        let slice = range.take(count);
        slice.map(|(_, entry)| entry.watched.clone()).collect()
    }

    /// Returns all entries, this many at a time.
    pub(crate) fn slices(&self, count: usize) -> impl Iterator<Item = Vec<Arc<Watched>>> {
        let mut after = None;
        std::iter::from_fn(move || {
            let slice = self.slice_after(after, count);
            after = Some(slice.last()?.id);
            Some(slice)
        })
    }

    /// Returns how many processes are watched.
    pub(crate) fn len(&self) -> usize {
        self.entries().by_id.len()
    }

    /// Opens a pidfd for this process if it has none and the budget allows. Then arms the sources
    /// again, because some of them can do more now.
    pub(crate) fn promote(&self, watched: &Watched) -> bool {
        self.strengthen(watched, |identity| {
            identity.promote(self.table.as_ref(), &self.budget)
        })
    }

    /// Reads the start time of this process if that failed at registration. Then arms the sources
    /// again: the probe needs it.
    pub(crate) fn complete(&self, watched: &Watched) -> bool {
        // The usual case.
        if watched.start_time().is_some() {
            return false;
        }
        self.strengthen(watched, |identity| identity.complete(self.table.as_ref()))
    }

    fn strengthen(
        &self,
        watched: &Watched,
        strengthen: impl FnOnce(&mut Identity) -> bool,
    ) -> bool {
        let is_stronger = strengthen(
            &mut watched
                .identity
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if is_stronger {
            self.for_each_arm(|arm| self.arm_if_watched(arm, watched));
        }
        is_stronger
    }

    /// Arms a source for every present and future process until the returned value is dropped.
    pub(crate) fn attach(self: &Arc<Self>, arm: Arc<dyn Arm>) -> Attachment {
        let key = {
            let mut arms = self.arms.write().unwrap_or_else(PoisonError::into_inner);
            let key = arms.last().map_or(0, |(last, _)| last + 1);
            Arc::make_mut(&mut arms).push((key, arm.clone()));
            key
        };
        // Added first, then armed for all entries. An entry of the time between is armed twice.
        for watched in self.slices(1_000).flatten() {
            self.arm_if_watched(arm.as_ref(), &watched);
        }
        Attachment {
            set: self.clone(),
            key,
        }
    }

    /// Arms a source for a process. The entry may be removed meanwhile, and then no other code
    /// would disarm it.
    pub(crate) fn arm_if_watched(&self, arm: &dyn Arm, watched: &Watched) {
        arm.arm(watched);
        if self.get(watched.id).is_none() {
            arm.disarm(watched);
        }
    }

    /// Returns whether a source of events runs.
    fn has_arms(&self) -> bool {
        let arms = self.arms.read().unwrap_or_else(PoisonError::into_inner);
        !arms.is_empty()
    }

    /// Calls each arm with no lock held: a source may report, and that callback may call the set.
    fn for_each_arm(&self, call: impl Fn(&dyn Arm)) {
        let arms = self
            .arms
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        arms.iter().for_each(|(_, arm)| call(arm.as_ref()));
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attachment of a source to the set. Dropping it ends the arming.
pub(crate) struct Attachment {
    set: Arc<WatchSet>,
    key: u64,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut arms = self
            .set
            .arms
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut arms).retain(|(key, _)| *key != self.key);
    }
}
