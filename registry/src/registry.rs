//! The shared handle: one lock around the table, and everything that must not happen under it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Authority, OnRemoved, RegistryBuilder};
use crate::error::RegisterError;
use crate::events::log::{EventLog, Subscription};
use crate::events::tombstones::Tombstones;
use crate::events::{Event, EventKind, SourceState};
use crate::hooks::{Change, HookRunner, Hooks};
use crate::process::ProcessId;
use crate::removal::{Death, Removal};
use crate::session::{EntryId, NewSession, Session, SessionId};
use crate::table::Table;
use crate::table::token_index::TokenIndex;
use crate::time::Moment;
use crate::token::{Token, TokenKey};

/// A registration that was stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The session as it stands now.
    pub session: Arc<Session>,
    /// Whether it lived before and was renewed.
    pub renewed: bool,
}

/// A registry that clones share. All methods take `&self`, return quickly and can be called from
/// any thread, from hooks too.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    table: Mutex<Table>,
    tombstones: Mutex<Tombstones>,
    by_token: Arc<TokenIndex>,
    token_key: TokenKey,
    log: Arc<EventLog>,
    hooks: Hooks,
    run_hooks: Option<HookRunner>,
    on_removed: Vec<OnRemoved>,
}

impl RegistryBuilder {
    /// The registry, empty.
    pub fn build(self) -> Registry {
        let by_token = Arc::new(TokenIndex::new());
        let table = Table::new(
            self.limits,
            self.lifetimes,
            self.strict_replace,
            by_token.clone(),
        );
        Registry(Arc::new(Shared {
            table: Mutex::new(table),
            tombstones: Mutex::default(),
            by_token,
            token_key: self.token_key,
            log: Arc::new(EventLog::new(self.event_capacity, self.wakers)),
            hooks: self.hooks,
            run_hooks: self.run_hooks,
            on_removed: self.on_removed,
        }))
    }
}

impl Registry {
    /// Starts from the key that tokens are digested under: 16 bytes of the system's random source,
    /// new at each start.
    pub fn builder(token_key: TokenKey) -> RegistryBuilder {
        RegistryBuilder::new(token_key)
    }

    /// Stores a session, replacing the live one of the same id and the one that held its token.
    ///
    /// Where both are one session of this very process and owner, it is renewed instead: it keeps its
    /// entry, its registration time and its ttl start anew, what it says about itself is the new
    /// text, and there is neither an event nor a hook.
    ///
    /// A token is registered again by the process alone that holds its session: for any other it is
    /// [`RegisterError::TokenInUse`] as long as that session lives, whoever asks.
    pub fn register(
        &self,
        mut new: NewSession,
        authority: Authority,
        now: Moment,
    ) -> Result<Stored, RegisterError> {
        let token_ref = new.token.digest_and_zeroize(&self.0.token_key);
        self.mutate(now, |table, changes| {
            table.register(new, token_ref, authority, now, changes)
        })
    }

    /// The live session of this token. A concurrent read: it takes no lock that a registration, a
    /// removal or a hook holds for longer than one map operation, and does not allocate.
    pub fn resolve(&self, token: &Token, now: Moment) -> Option<Arc<Session>> {
        let session = self.0.by_token.find(self.0.token_key.digest(token))?;
        if session.has_expired(now.boot) {
            return self.expire_entry(session.entry, now);
        }
        Some(session)
    }

    /// The end of the session that had this token, if that was less than a minute ago.
    pub fn recently_gone(&self, token: &Token, now: Moment) -> Option<Arc<Event>> {
        let digest = self.0.token_key.digest(token);
        self.0
            .tombstones
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .find(digest, now.boot)
    }

    /// Whether this is the token of that session, alive or not.
    pub fn is_token_of(&self, token: &Token, session: &Session) -> bool {
        self.0.token_key.digest(token) == *session.digest()
    }

    /// All live sessions in order of registration. Those past their ceiling stay visible until a
    /// sweep or a look-up removes them.
    pub fn list(&self) -> Vec<Arc<Session>> {
        self.table().sessions().cloned().collect()
    }

    /// How many sessions live.
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The live session of this name.
    pub fn session_named(&self, id: &SessionId) -> Option<Arc<Session>> {
        self.table().session_named(id).cloned()
    }

    /// The live sessions of this process.
    pub fn sessions_of(&self, process: ProcessId) -> Vec<Arc<Session>> {
        self.table().sessions_of(process)
    }

    /// Removes the session of this token at its owner's request.
    pub fn deregister(&self, token: &Token, now: Moment) -> Option<Arc<Session>> {
        let digest = self.0.token_key.digest(token);
        self.mutate(now, |table, changes| {
            table.expire(now.boot, changes);
            let entry = self.0.by_token.find(digest)?.entry;
            table.remove(entry, Removal::Requested, changes)
        })
    }

    /// Removes exactly this entry, if it lives.
    pub fn remove_entry(
        &self,
        entry: EntryId,
        removal: Removal,
        now: Moment,
    ) -> Option<Arc<Session>> {
        self.mutate(now, |table, changes| table.remove(entry, removal, changes))
    }

    /// Removes this session, if it lives and was not renewed since.
    pub fn remove_unchanged(
        &self,
        session: &Arc<Session>,
        removal: Removal,
        now: Moment,
    ) -> Option<Arc<Session>> {
        self.mutate(now, |table, changes| {
            let stored = table.session(session.entry)?;
            Arc::ptr_eq(stored, session)
                .then(|| table.remove(session.entry, removal, changes))
                .flatten()
        })
    }

    /// Removes every session of a process that was judged dead; answers how many there were.
    pub fn remove_process(&self, process: ProcessId, death: Death, now: Moment) -> usize {
        self.mutate(now, |table, changes| {
            table.remove_process(process, death, changes);
            changes.len()
        })
    }

    /// Removes every session past its ceiling; answers how many there were.
    pub fn expire(&self, now: Moment) -> usize {
        self.mutate(now, |table, changes| {
            table.expire(now.boot, changes);
            changes.len()
        })
    }

    /// All live sessions and a reader of everything that happens to them from then on, in one step.
    pub fn subscribe(&self) -> (Vec<Arc<Session>>, Subscription) {
        // Events are appended under the table's lock, so position and list belong together.
        let table = self.table();
        let subscription = Subscription::at(self.0.log.clone(), self.0.log.next_seq());
        (table.sessions().cloned().collect(), subscription)
    }

    /// A reader that goes on after the event numbered `last_seen`; `None` if that number has not
    /// been given out yet. If the next ones have left the ring, its first answer is the gap.
    pub fn resume(&self, last_seen: u64) -> Option<Subscription> {
        (last_seen < self.0.log.next_seq())
            .then(|| Subscription::at(self.0.log.clone(), last_seen + 1))
    }

    /// Puts a change of a source's state into the history.
    pub fn publish_source_state(&self, state: SourceState, now: Moment) {
        self.publish(EventKind::SourceState(state), now);
    }

    /// Tells every reader that the end is near. Sessions stay as they are.
    pub fn publish_shutdown(&self, now: Moment) {
        self.publish(EventKind::Shutdown, now);
    }

    /// How many hooks and wake-ups of readers have panicked so far.
    pub fn hook_panics(&self) -> u64 {
        self.0.hooks.panics()
    }

    /// How many sessions went by without their two hooks, because more calls than can be held were
    /// waiting behind a hook that blocks.
    pub fn hooks_lost(&self) -> u64 {
        self.0.hooks.lost()
    }

    /// For a look-up that found an expired session: removes this one alone, because a look-up does not
    /// pay for a sweep. The session may have been renewed since it was found.
    pub(crate) fn expire_entry(&self, entry: EntryId, now: Moment) -> Option<Arc<Session>> {
        self.mutate(now, |table, changes| {
            table.expire_entry(entry, now.boot, changes)
        })
    }

    fn publish(&self, kind: EventKind, now: Moment) {
        {
            let _order = self.table();
            self.0.log.append(kind, now);
        }
        self.wake_readers();
    }

    fn wake_readers(&self) {
        self.0.hooks.contain(|| self.0.log.wake_readers());
    }

    /// The one way to change the table: mutate, record and queue the hooks under the lock; wake the
    /// readers and run the hooks after it.
    fn mutate<T>(
        &self,
        now: Moment,
        mutation: impl FnOnce(&mut Table, &mut Vec<Change>) -> T,
    ) -> T {
        let mut changes = Vec::new();
        let outcome = {
            let mut table = self.table();
            let outcome = mutation(&mut table, &mut changes);
            for change in &changes {
                self.record(change, now);
                self.0.hooks.queue(change);
            }
            outcome
        };
        if !changes.is_empty() {
            self.wake_readers();
            self.release(&changes);
            self.run_hooks(changes);
        }
        outcome
    }

    fn release(&self, changes: &[Change]) {
        for change in changes {
            if let Change::Deregistered(session, _) = change {
                for release in &self.0.on_removed {
                    self.0.hooks.contain(|| release(session));
                }
            }
        }
    }

    fn run_hooks(&self, changes: Vec<Change>) {
        match &self.0.run_hooks {
            Some(runner) if !self.0.hooks.none() => {
                let registry = self.clone();
                runner(Box::new(move || registry.0.hooks.run(&changes)));
            }
            _ => self.0.hooks.run(&changes),
        }
    }

    fn record(&self, change: &Change, now: Moment) {
        match change {
            Change::Registered { session, .. } => {
                self.0
                    .log
                    .append(EventKind::Registered(session.clone()), now);
            }
            Change::Deregistered(session, removal) => {
                let kind = EventKind::Deregistered(session.clone(), *removal);
                let event = self.0.log.append(kind, now);
                self.0
                    .tombstones
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(*session.digest(), event);
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.table().check_invariants();
        self.0.log.check_invariants();
        self.0.tombstones.lock().unwrap().check_invariants();
    }

    /// How many ended sessions are remembered.
    #[cfg(test)]
    pub(crate) fn tombstones(&self) -> usize {
        self.0.tombstones.lock().unwrap().len()
    }

    /// How many hook calls wait or run.
    #[cfg(test)]
    pub(crate) fn waiting_hooks(&self) -> usize {
        self.0.hooks.waiting()
    }
}
