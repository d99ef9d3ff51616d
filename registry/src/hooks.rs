//! Hooks: called on the mutating thread after the mutation, outside of every lock.
//!
//! Two threads may remove and store sessions of one name at the same moment, so the order in which
//! they leave the table's lock says nothing. Therefore calls are queued under that lock, which is the
//! order of the mutations, in one lane per session name, and whoever finds the head of a lane idle
//! runs it. A registration that took its token from a session of another name stands in that lane
//! too, and runs when it is the head of both. Since all lanes are filled in one order, the oldest
//! call of all can always run: lanes never wait for each other in a circle.
//!
//! A hook that blocks holds up its own lane and its own caller, one that calls back into the registry
//! finds no lock held, and one that panics is counted and forgotten. A lane exists while it has calls;
//! a session at rest costs nothing here.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::removal::Removal;
use crate::session::{Session, SessionId};

type OnRegister = Box<dyn Fn(&Arc<Session>) + Send + Sync>;
type OnDeregister = Box<dyn Fn(&Arc<Session>, &Removal) + Send + Sync>;

/// The hooks that one mutation made due, as one piece of work.
pub type HookRun = Box<dyn FnOnce() + Send>;

/// Takes such work over from the mutating thread.
pub(crate) type HookRunner = Box<dyn Fn(HookRun) + Send + Sync>;

/// How many calls may wait before sessions that end unannounced stay so. Only a hook that blocks while
/// its session is replaced again and again gets there; a few megabytes are what it can cost.
pub(crate) const MAX_WAITING: usize = 16_384;
/// A map of lanes that grew beyond this is given back when it is empty.
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
        /// The name of the session that lost its token to this one, where that is another name.
        token_from: Option<SessionId>,
    },
    Deregistered(Arc<Session>, Removal),
}

impl Change {
    pub(crate) fn session(&self) -> &Arc<Session> {
        match self {
            Self::Registered { session, .. } | Self::Deregistered(session, _) => session,
        }
    }

    /// The lanes it stands in.
    fn names(&self) -> impl Iterator<Item = &SessionId> {
        let other = match self {
            Self::Registered { token_from, .. } => token_from.as_ref(),
            Self::Deregistered(..) => None,
        };
        std::iter::once(&self.session().id).chain(other)
    }
}

impl Hooks {
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// To be called under the table's lock: that is what gives the lanes their order.
    pub(crate) fn queue(&self, change: &Change) {
        if self.none() {
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

    /// Runs what waits in the lanes of these changes. To be called with no lock held, after `queue`.
    /// Leaves out a lane of which a hook is running, here (re-entrance) or on another thread: that run
    /// goes on with what has been queued.
    pub(crate) fn run(&self, changes: &[Change]) {
        if self.none() {
            return;
        }
        let mut names = std::mem::take(&mut self.queues().freed);
        // One call for each change first: where nobody interferes, hooks come in the order of events.
        for change in changes {
            self.run_head(&change.session().id, &mut names);
        }
        names.extend(changes.iter().rev().map(|c| c.session().id.clone()));
        while let Some(name) = names.pop() {
            while self.run_head(&name, &mut names) {}
        }
    }

    /// Makes the first call of this lane, if it may be made now, and notes which other lane it stood in.
    fn run_head(&self, name: &SessionId, others: &mut Vec<SessionId>) -> bool {
        let Some((seq, change)) = self.queues().begin(name) else {
            return false;
        };
        self.call(&change);
        self.queues().remove(seq);
        others.extend(change.names().filter(|other| *other != name).cloned());
        true
    }

    pub(crate) fn none(&self) -> bool {
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

    /// A hook owns what it touches; nothing of the registry is in its hands when it panics.
    pub(crate) fn contain(&self, hook: impl FnOnce()) {
        let mut panicked = catch_unwind(AssertUnwindSafe(hook)).err();
        if panicked.is_some() {
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
        // What a panic carries may panic once more when it is dropped.
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
        assert!(queues.by_name.values().all(|queue| !queue.is_empty()));
        assert!(queues.by_name.len() <= 2 * queues.calls.len());
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
    by_name: HashMap<SessionId, VecDeque<Seq>>,
    /// Lanes whose head went away unrun; the next thread that runs anything looks at them.
    freed: Vec<SessionId>,
}

impl Queues {
    fn push(&mut self, change: Change) {
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        for name in change.names() {
            self.by_name.entry(name.clone()).or_default().push_back(seq);
        }
        let running = false;
        self.calls.insert(seq, Call { change, running });
    }

    /// Marks the head of this lane as running, if it may run now.
    fn begin(&mut self, name: &SessionId) -> Option<(Seq, Change)> {
        let seq = self.head(name)?;
        let call = &self.calls[&seq];
        if call.running || !call.change.names().all(|n| self.head(n) == Some(seq)) {
            return None;
        }
        let call = self.calls.get_mut(&seq)?;
        call.running = true;
        Some((seq, call.change.clone()))
    }

    fn head(&self, name: &SessionId) -> Option<Seq> {
        self.by_name.get(name)?.front().copied()
    }

    /// Takes back the registration of a session that ends before its hooks have heard of it.
    fn cancel_registration(&mut self, ended: &Session) -> bool {
        let registration = self.by_name.get(&ended.id).and_then(|queue| {
            queue.iter().rev().copied().find(|seq| {
                let call = &self.calls[seq];
                matches!(&call.change, Change::Registered { session, .. }
                    if session.entry == ended.entry && !call.running)
            })
        });
        let Some(change) = registration.and_then(|seq| self.remove(seq)) else {
            return false;
        };
        self.freed.extend(change.names().cloned());
        true
    }

    fn remove(&mut self, seq: Seq) -> Option<Change> {
        let Call { change, .. } = self.calls.remove(&seq)?;
        for name in change.names() {
            if let Some(queue) = self.by_name.get_mut(name) {
                if queue.front() == Some(&seq) {
                    queue.pop_front();
                } else {
                    queue.retain(|waiting| *waiting != seq);
                }
                if queue.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        if self.by_name.is_empty() && self.by_name.capacity() > KEPT_QUEUES {
            self.by_name = HashMap::new();
        }
        Some(change)
    }
}
