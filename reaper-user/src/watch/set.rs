//! The set of watched processes: who is in it, what pins each one, and which sources are armed for
//! it. It is the only owner of identities, and it knows nothing of sessions.
//!
//! One process is one entry however many sessions name it, so it costs one descriptor and one
//! verdict. Entries are counted by their holders; the last one to let go removes the entry.
//!
//! # Lock order
//!
//! No lock is held while a source, a hook or an embedder's callback runs, so each of these may call
//! back into the set and into the registry. Only these locks are held together, the left one first:
//!
//! * registry table → a session's secret key, token index shard, event log, tombstones, hook queues.
//!   The five are taken one at a time, for one operation each.
//! * identities of several processes, for reading only: the sweep has up to 512 while it polls them.
//!   `complete` and `promote` have one for writing. Under it they read the process table and take a
//!   slot of the descriptor budget, which is a counter and not a lock.
//!
//! All others are taken with no other lock held: entries, arms, status board, what each source keeps
//! of its armed processes, the watches of an `ExitWatcher`, the work queue of the hook threads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use reaper_registry::{BootTime, Pid, ProcessId, Source, StartTime};

use crate::sys::process_table::ProcessTable;
use crate::watch::fd_budget::FdBudget;
use crate::watch::hint::{Hint, HintSender};
use crate::watch::identity::{Identity, IdentityStrength, NotPinned};
use crate::watch::verdict::{GroupDead, Verdict, has_ended_unread, judge};

/// A watched process.
#[derive(Debug)]
pub struct Watched {
    pub id: ProcessId,
    pub pid: Pid,
    /// Behind a lock because a stronger handle may replace a weaker one later, and a start time that
    /// could not be read at first may be read later.
    identity: RwLock<Identity>,
    /// It was found to be no thread of the kernel, and nobody becomes one.
    is_ordinary: AtomicBool,
}

impl Watched {
    /// What became of it; see [`judge`].
    pub fn judge(&self, group_dead: Option<GroupDead>, table: &dyn ProcessTable) -> Verdict {
        judge(&self.identity(), group_dead, table)
    }

    /// Whether it has ended although its pidfd, which is held, is not readable; see
    /// [`verdict`](crate::watch::verdict).
    pub(crate) fn has_ended_unread(&self, table: &dyn ProcessTable) -> bool {
        has_ended_unread(&self.identity(), table)
    }

    /// Lends its pidfd, if one is held.
    pub fn with_pidfd<T>(&self, use_it: impl FnOnce(Option<BorrowedFd<'_>>) -> T) -> T {
        use_it(self.identity().pidfd())
    }

    /// Whether it is a thread of the kernel's own. One that executes a program is so no more, so only
    /// the answer "no" is kept.
    pub(crate) fn is_kernel_thread(&self, table: &dyn ProcessTable) -> bool {
        if self.is_ordinary.load(Ordering::Relaxed) {
            return false;
        }
        match table.stat(self.pid) {
            Ok(stat) => {
                // True of this very process only if it lives still: the number may be another's.
                if !stat.kernel_thread && matches!(self.judge(None, table), Verdict::Alive) {
                    self.is_ordinary.store(true, Ordering::Relaxed);
                }
                stat.kernel_thread
            }
            Err(_) => false,
        }
    }

    /// When it started; `None` until that can be read.
    pub fn start_time(&self) -> Option<StartTime> {
        self.identity().start_time
    }

    /// Returns what identifies the process.
    pub fn strength(&self) -> IdentityStrength {
        self.identity().strength()
    }

    /// The wait status word that the system still keeps of it.
    pub fn wait_status(&self, table: &dyn ProcessTable) -> Option<u32> {
        self.identity().wait_status(table)
    }

    pub(crate) fn identity(&self) -> RwLockReadGuard<'_, Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a source does for each process, inside of the call that starts watching it and before that
/// process is looked at once more. Both must be quick, and arming twice must do no harm.
pub trait Arm: Send + Sync {
    fn arm(&self, watched: &Watched);
    fn disarm(&self, watched: &Watched);
}

/// The set.
pub struct WatchSet {
    pub(crate) table: Arc<dyn ProcessTable>,
    pub(crate) budget: Arc<FdBudget>,
    hints: HintSender,
    entries: Mutex<Entries>,
    arms: RwLock<Arms>,
    /// When the last whole sweep began, on the boot clock; zero before the first.
    swept_at_ns: AtomicU64,
}

/// Replaced as a whole when a source comes or goes, which is rare; read for each registration.
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
    holders: usize,
}

impl WatchSet {
    pub fn new(
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

    /// Everybody who is still here was alive then, or in doubt.
    pub fn swept_at(&self) -> Option<BootTime> {
        let nanos = self.swept_at_ns.load(Ordering::Relaxed);
        (nanos > 0).then_some(BootTime::from_nanos(nanos))
    }

    pub(crate) fn mark_swept(&self, began: BootTime) {
        self.swept_at_ns.store(began.as_nanos(), Ordering::Relaxed);
    }

    /// Starts watching whoever has this number now, or shares the entry that does so already.
    ///
    /// The caller stores what it wants to keep true and then calls [`WatchGuard::recheck`]: only then
    /// can no death fall between the identity that was read and the sources that were armed.
    pub fn watch(self: &Arc<Self>, pid: Pid) -> Result<WatchGuard, NotPinned> {
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
            });
            entries.by_id.insert(
                id,
                Entry {
                    watched: watched.clone(),
                    holders: 1,
                },
            );
            entries.by_pid.insert((pid, id));
            watched
        };
        self.for_each_arm(|arm| arm.arm(&watched));
        Ok(WatchGuard {
            set: self.clone(),
            watched,
            kept: false,
        })
    }

    /// A further holder for the entry of this number, if its process still lives. One that does not
    /// is pointed out: its number may be somebody else's now.
    fn reuse_entry(self: &Arc<Self>, pid: Pid) -> Option<WatchGuard> {
        for watched in self.with_pid(pid) {
            if !matches!(watched.judge(None, self.table.as_ref()), Verdict::Alive) {
                self.hints.send(Hint::check(watched.id, Source::Register));
                continue;
            }
            let mut entries = self.entries();
            if let Some(entry) = entries.by_id.get_mut(&watched.id) {
                entry.holders += 1;
                drop(entries);
                return Some(WatchGuard {
                    set: self.clone(),
                    watched,
                    kept: false,
                });
            }
        }
        None
    }

    /// Lets go of an entry once for a holder that was kept.
    pub fn release(&self, id: ProcessId) {
        let removed = {
            let mut entries = self.entries();
            let Some(entry) = entries.by_id.get_mut(&id) else {
                return;
            };
            entry.holders -= 1;
            if entry.holders > 0 {
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

    /// The entry, if it is still watched.
    pub fn get(&self, id: ProcessId) -> Option<Arc<Watched>> {
        self.entries()
            .by_id
            .get(&id)
            .map(|entry| entry.watched.clone())
    }

    /// The entries under this number: mostly one, two while a dead one's number is in use again.
    pub fn with_pid(&self, pid: Pid) -> Vec<Arc<Watched>> {
        let entries = self.entries();
        entries
            .ids_with_pid(pid)
            .filter_map(|id| entries.by_id.get(&id).map(|entry| entry.watched.clone()))
            .collect()
    }

    /// Returns the ids of the entries under this pid, as [`Self::with_pid`] does.
    pub fn ids_with_pid(&self, pid: Pid) -> Vec<ProcessId> {
        let entries = self.entries();
        entries.ids_with_pid(pid).collect()
    }

    /// The next entries behind `after`, at most `count`, in an order that survives changes.
    pub fn slice_after(&self, after: Option<ProcessId>, count: usize) -> Vec<Arc<Watched>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.entries();
        let range = entries.by_id.range((from, Bound::Unbounded));
        range
            .take(count)
            .map(|(_, entry)| entry.watched.clone())
            .collect()
    }

    /// How many processes are watched.
    pub fn len(&self) -> usize {
        self.entries().by_id.len()
    }

    /// Whether none is watched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pins this process by a pidfd if it is not and there is room again. Its sources are armed
    /// anew, because some of them can do more now.
    pub fn promote(&self, watched: &Watched) -> bool {
        self.strengthen(watched, |identity| {
            identity.promote(self.table.as_ref(), &self.budget)
        })
    }

    /// Reads the start time of this process if that was impossible at its registration. Its sources are
    /// armed anew then: the probe needs it.
    pub fn complete(&self, watched: &Watched) -> bool {
        // Nearly always.
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
            self.for_each_arm(|arm| self.arm_if_held(arm, watched));
        }
        is_stronger
    }

    /// Has a source armed for everybody, now and from now on, until the answer is dropped.
    pub fn attach(self: &Arc<Self>, arm: Arc<dyn Arm>) -> Attachment {
        let key = {
            let mut arms = self.arms.write().unwrap_or_else(PoisonError::into_inner);
            let key = arms.last().map_or(0, |(last, _)| last + 1);
            Arc::make_mut(&mut arms).push((key, arm.clone()));
            key
        };
        // First known, then armed for those present: whoever comes in between is armed twice.
        let mut after = None;
        loop {
            let slice = self.slice_after(after, 1_000);
            let Some(last) = slice.last() else { break };
            after = Some(last.id);
            for watched in &slice {
                self.arm_if_held(arm.as_ref(), watched);
            }
        }
        Attachment {
            set: self.clone(),
            key,
        }
    }

    /// An entry may be let go of while it is armed, and then nobody else would disarm it.
    pub(crate) fn arm_if_held(&self, arm: &dyn Arm, watched: &Watched) {
        arm.arm(watched);
        if self.get(watched.id).is_none() {
            arm.disarm(watched);
        }
    }

    /// Calls with no lock held: a source may report, and what is called then may come back here.
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

/// A source's place in the set; it is armed for nobody once this is dropped.
pub struct Attachment {
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

/// One holder of an entry. Dropped, it lets go; [WatchGuard::detach] leaves that to a later
/// [`WatchSet::release`].
#[must_use]
pub struct WatchGuard {
    set: Arc<WatchSet>,
    pub watched: Arc<Watched>,
    kept: bool,
}

impl WatchGuard {
    /// From here on somebody else lets go, once.
    pub fn detach(&mut self) {
        self.kept = true;
    }

    /// The last step of registration: the process may have ended after it was pinned and before the
    /// sources were armed, and then nobody else would say so until the next sweep.
    ///
    /// One that is not even on its way out has yet to pass every source, all of which are armed by
    /// now. Of any other the loop must decide, and go on looking: the probe fires before a process is
    /// seen as dead, since 6.16 long before, so that one which was armed too late for the probe may
    /// look alive here. An entry that is no more, or that is somebody else's, is no proof of life.
    pub fn recheck(&self) {
        let Watched { id, pid, .. } = *self.watched;
        let is_same = |start_time| self.watched.identity().may_be(start_time);
        let has_all_before_it = self
            .set
            .table
            .stat(pid)
            .is_ok_and(|stat| is_same(stat.start_time) && !stat.main_thread_ending);
        if !has_all_before_it {
            let hint = Hint::check(id, Source::Register);
            self.set.hints.send(hint);
        }
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let id = self.watched.id;
        self.set.release(id);
        // Another registration may have come to reuse_entry the entry before the sources were armed here, and
        // its last look was too early then. This one's, which would have made up for it, is not taken.
        if self.set.get(id).is_some() {
            let hint = Hint::check(id, Source::Register);
            self.set.hints.send(hint);
        }
    }
}
