//! Hooks: run after a mutation, with no lock held, in the order of the mutations per session id of one
//! owner.
//!
//! Two threads may remove and store sessions of one id at the same moment, and the order in which they
//! release the table's lock is undefined. Therefore calls are queued while that lock is held, which
//! orders them as the mutations, in one queue per owner and session id (called id below). A thread that finds the head of a queue
//! idle runs it. A registration that took its token from a session of another id is in the queue of
//! that id too, and runs when it is the head of both. All queues are filled in one order (`Seq`), so the
//! oldest call of all can always run: queues never wait for each other in a circle.
//!
//! A hook that blocks delays its own queues and its own caller. A hook that calls the registry finds no
//! lock held. A hook that panics is counted. A queue exists only while it has calls: a session without
//! pending calls costs nothing here.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::removal::Removal;
use crate::session::{Session, SessionKey};

type OnRegister = Box<dyn Fn(&Arc<Session>) + Send + Sync>;
type OnDeregister = Box<dyn Fn(&Arc<Session>, &Removal) + Send + Sync>;

/// The hooks that one mutation made due, as passed to the function given to
/// [`RegistryBuilder::run_hooks_by`](crate::RegistryBuilder::run_hooks_by).
///
/// Call it once. It returns when these hooks have run, except those that another thread runs because it
/// is running hooks of the same session id. It does not panic.
pub type HookRun = Box<dyn FnOnce() + Send>;

/// Runs a [`HookRun`] elsewhere than on the mutating thread.
pub(crate) type HookRunner = Box<dyn Fn(HookRun) + Send + Sync>;

/// How many calls may wait before a session that is removed while its registration still waits loses
/// both of its calls. Reached only if a hook blocks while its session is replaced again and again. The
/// queued calls then take a few megabytes.
pub(crate) const MAX_WAITING: usize = 16_384;
/// An empty map of queues with more capacity than this is freed.
const KEPT_QUEUES: usize = 1_024;

#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) on_register: Vec<OnRegister>,
    pub(crate) on_deregister: Vec<OnDeregister>,
    queues: Mutex<Queues>,
    panics: AtomicU64,
    lost: AtomicU64,
}

/// One mutation of the table.
#[derive(Clone)]
pub(crate) enum Change {
    Registered {
        session: Arc<Session>,
        /// The session that lost its token to this one, if it has another id.
        token_from: Option<SessionKey>,
    },
    Deregistered(Arc<Session>, Removal),
}

impl Change {
    pub(crate) fn session(&self) -> &Arc<Session> {
        match self {
            Self::Registered { session, .. } | Self::Deregistered(session, _) => session,
        }
    }

    /// The ids whose queues contain this call.
    fn ids(&self) -> impl Iterator<Item = SessionKey> {
        let other = match self {
            Self::Registered { token_from, .. } => token_from.clone(),
            Self::Deregistered(..) => None,
        };
        std::iter::once(self.session().key()).chain(other)
    }
}

impl Hooks {
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Queues the call for a change. The caller holds the table's lock, which orders the queues.
    pub(crate) fn queue(&self, change: &Change) {
        if self.is_empty() {
            return;
        }
        let mut queues = self.queues();
        if let Change::Deregistered(session, _) = change
            && queues.calls.len() >= MAX_WAITING
            && queues.cancel_registration(session)
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queues.push(change.clone());
    }

    /// Runs the calls that wait in the queues of these changes. The caller holds no lock and has called
    /// `queue`. Skips a queue whose head is running, on this thread (re-entrance) or on another: that run
    /// continues with the calls queued meanwhile.
    pub(crate) fn run(&self, changes: &[Change]) {
        if self.is_empty() {
            return;
        }
        let mut ids = std::mem::take(&mut self.queues().unblocked);
        // First one call per change: without other threads, hooks then run in the order of events.
        for change in changes {
            self.run_head(&change.session().key(), &mut ids);
        }
        ids.extend(changes.iter().rev().map(|c| c.session().key()));
        while let Some(id) = ids.pop() {
            while self.run_head(&id, &mut ids) {}
        }
    }

    /// Runs the first call of this queue, if it may run now, and adds the other queue that contained it
    /// to `others`. Returns whether it ran.
    fn run_head(&self, id: &SessionKey, others: &mut Vec<SessionKey>) -> bool {
        let Some((seq, change)) = self.queues().begin(id) else {
            return false;
        };
        self.call(&change);
        self.queues().remove(seq);
        others.extend(change.ids().filter(|other| other != id));
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.on_register.is_empty() && self.on_deregister.is_empty()
    }

    fn call(&self, change: &Change) {
        match change {
            Change::Registered { session, .. } => {
                self.on_register
                    .iter()
                    .for_each(|hook| self.contain(|| hook(session)));
            }
            Change::Deregistered(session, removal) => {
                self.on_deregister
                    .iter()
                    .for_each(|hook| self.contain(|| hook(session, removal)));
            }
        }
    }

    /// Runs `hook`; counts and discards a panic. No state of the registry is borrowed by a hook, so a
    /// panic cannot leave the registry inconsistent.
    pub(crate) fn contain(&self, hook: impl FnOnce()) {
        let mut panicked = catch_unwind(AssertUnwindSafe(hook)).err();
        if panicked.is_some() {
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
        // Dropping the payload of a panic may panic again.
        while let Some(payload) = panicked {
            panicked = catch_unwind(AssertUnwindSafe(|| drop(payload))).err();
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        let queues = self.queues();
        assert!(queues.by_id.values().all(|queue| !queue.is_empty()));
        assert!(queues.by_id.len() <= 2 * queues.calls.len());
        queues.calls.len()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seq(u64);

struct Call {
    change: Change,
    running: bool,
}

#[derive(Default)]
struct Queues {
    next_seq: u64,
    calls: BTreeMap<Seq, Call>,
    by_id: HashMap<SessionKey, VecDeque<Seq>>,
    /// Ids of queues whose head was cancelled. The next thread that runs hooks runs these queues too.
    unblocked: Vec<SessionKey>,
}

impl Queues {
    fn push(&mut self, change: Change) {
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        for id in change.ids() {
            self.by_id.entry(id).or_default().push_back(seq);
        }
        let running = false;
        self.calls.insert(seq, Call { change, running });
    }

    /// Marks the head of this queue as running, if it may run now.
    fn begin(&mut self, id: &SessionKey) -> Option<(Seq, Change)> {
        let seq = self.head(id)?;
        let call = &self.calls[&seq];
        if call.running || !call.change.ids().all(|id| self.head(&id) == Some(seq)) {
            return None;
        }
        let call = self.calls.get_mut(&seq)?;
        call.running = true;
        Some((seq, call.change.clone()))
    }

    fn head(&self, id: &SessionKey) -> Option<Seq> {
        self.by_id.get(id)?.front().copied()
    }

    /// Removes the registration call of a session that ends before that call has started. Returns whether
    /// there was one.
    fn cancel_registration(&mut self, ended: &Session) -> bool {
        let registration = self.by_id.get(&ended.key()).and_then(|queue| {
            queue.iter().rev().copied().find(|seq| {
                let call = &self.calls[seq];
                matches!(&call.change, Change::Registered { session, .. }
                    if session.entry == ended.entry && !call.running)
            })
        });
        let Some(change) = registration.and_then(|seq| self.remove(seq)) else {
            return false;
        };
        self.unblocked.extend(change.ids());
        true
    }

    fn remove(&mut self, seq: Seq) -> Option<Change> {
        let Call { change, .. } = self.calls.remove(&seq)?;
        for id in change.ids() {
            if let Some(queue) = self.by_id.get_mut(&id) {
                if queue.front() == Some(&seq) {
                    queue.pop_front();
                } else {
                    queue.retain(|waiting| *waiting != seq);
                }
                if queue.is_empty() {
                    self.by_id.remove(&id);
                }
            }
        }
        if self.by_id.is_empty() && self.by_id.capacity() > KEPT_QUEUES {
            self.by_id = HashMap::new();
        }
        Some(change)
    }
}
