//! Hooks: called on the mutating thread after the mutation, outside of every lock.
//!
//! Two threads may remove and replace sessions of one name at the same moment, so the order in which
//! they leave the table's lock says nothing. Therefore each session name has a lane: calls are put
//! into it under the table's lock, which is the order of the mutations, and whoever finds the lane
//! idle runs what is in it. A hook that blocks holds up its own lane and its own caller, one that
//! calls back into the registry finds no lock held, and one that panics is counted and forgotten.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::removal::Removal;
use crate::session::Session;

type OnRegister = Box<dyn Fn(&Arc<Session>) + Send + Sync>;
type OnDeregister = Box<dyn Fn(&Arc<Session>, &Removal) + Send + Sync>;

#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) on_register: Vec<OnRegister>,
    pub(crate) on_deregister: Vec<OnDeregister>,
    panics: AtomicU64,
}

impl Hooks {
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    fn run(&self, change: &Change) {
        match change {
            Change::Registered(session) => {
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
    fn contain(&self, hook: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(hook)).is_err() {
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One mutation of the table.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Registered(Arc<Session>),
    Deregistered(Arc<Session>, Removal),
}

impl Change {
    pub(crate) fn session(&self) -> &Arc<Session> {
        match self {
            Self::Registered(session) | Self::Deregistered(session, _) => session,
        }
    }
}

/// The hook calls of one session name, in the order of its mutations.
#[derive(Debug, Default)]
pub(crate) struct Lane(Mutex<LaneState>);

#[derive(Debug, Default)]
struct LaneState {
    waiting: VecDeque<Change>,
    running: bool,
}

impl Lane {
    /// To be called under the table's lock: that is what gives the lane its order.
    pub(crate) fn push(&self, change: Change) {
        self.state().waiting.push_back(change);
    }

    /// To be called with no lock held. Returns at once if a hook of this lane is running, here
    /// (re-entrance) or on another thread: that run goes on with what has been pushed.
    pub(crate) fn run(&self, hooks: &Hooks) {
        {
            let mut state = self.state();
            if state.running {
                return;
            }
            state.running = true;
        }
        while let Some(change) = self.next() {
            hooks.run(&change);
        }
    }

    fn next(&self) -> Option<Change> {
        let mut state = self.state();
        let change = state.waiting.pop_front();
        if change.is_none() {
            // A session may live for hours between its two calls: give the buffer back.
            *state = LaneState::default();
        }
        change
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LaneState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
