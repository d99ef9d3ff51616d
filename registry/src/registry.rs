//! The shared handle: one lock around the table, and what must happen outside of it.

mod pause;
mod rules;
mod step;
mod totals;
mod usage;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{OnReleased, OnRemoved, RegistryBuilder};
use crate::error::RegisterError;
use crate::events::log::{EventLog, Subscription};
use crate::events::tombstones::Tombstones;
use crate::events::{Event, EventKind, SourceState};
use crate::hooks::{HookRunner, Hooks};
use crate::journal::Journal;
use crate::process::ProcessId;
use crate::removal::{Death, Removal};
use crate::session::{EntryId, NewSession, Session, SessionId};
use crate::table::Table;
use crate::table::token_index::TokenIndex;
use crate::time::Moment;
use crate::token::{Presented, TokenKey, TokenRef};

pub use self::totals::{Removed, Totals};
pub use self::usage::OwnerUsage;

/// How many sessions of a dead process are removed under one lock.
const REMOVED_AT_ONCE: usize = 256;

/// The result of a successful registration.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The stored session.
    pub session: Arc<Session>,
    /// Whether a live session was renewed. `false`: a new session was stored.
    pub renewed: bool,
}

/// A session registry.
///
/// A cheap handle: clones share one registry. All methods take `&self` and may be called from any
/// thread, including from hooks. See the [crate documentation](crate) for costs and locks.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    table: Mutex<Table>,
    tombstones: Mutex<Tombstones>,
    by_token: Arc<TokenIndex>,
    token_key: TokenKey,
    log: Arc<EventLog>,
    counters: totals::Counters,
    hooks: Hooks,
    run_hooks: Option<HookRunner>,
    on_removed: Vec<OnRemoved>,
    on_released: Vec<OnReleased>,
    journal: Option<Arc<dyn Journal>>,
    /// Set while it is paused: the source states to be published then. Locked under the table's lock.
    paused: Mutex<Option<Vec<(SourceState, Moment)>>>,
}

impl fmt::Debug for Registry {
    /// Writes the number of sessions, never their content. Takes the table's lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("sessions", &self.len())
            .finish_non_exhaustive()
    }
}

impl RegistryBuilder {
    /// Builds the registry: an empty one, unless a state is restored.
    pub fn build(self) -> Registry {
        let by_token = Arc::new(TokenIndex::new());
        let state = self.state.unwrap_or_default();
        let mut table = Table::new(
            self.limits,
            self.sharing,
            self.lifetimes,
            self.strict_replace,
            by_token.clone(),
        );
        table.restore(state.sessions, state.counters.next_entry);
        let log = EventLog::restore(
            self.event_capacity,
            self.wakers,
            state.events,
            state.counters,
        );
        let mut tombstones = Tombstones::default();
        log.for_each(|event| {
            if let EventKind::Deregistered(session, _) = &event.kind {
                tombstones.insert(*session.digest(), event.clone());
            }
        });
        Registry(Arc::new(Shared {
            table: Mutex::new(table),
            tombstones: Mutex::new(tombstones),
            by_token,
            token_key: self.token_key,
            log: Arc::new(log),
            counters: totals::Counters::default(),
            hooks: self.hooks,
            run_hooks: self.run_hooks,
            on_removed: self.on_removed,
            on_released: self.on_released,
            journal: self.journal,
            paused: Mutex::default(),
        }))
    }
}

impl Registry {
    /// Returns the settings of a new registry, which stores tokens as digests under `token_key`.
    pub fn builder(token_key: TokenKey) -> RegistryBuilder {
        RegistryBuilder::new(token_key)
    }

    /// Stores a session. Removes the owner's live session with the same id and the live session with the
    /// same token, if they exist ([`Removal::Replaced`]).
    ///
    /// **Renewal.** If both are the same session, and mesh and labels are as before, it is renewed: it keeps
    /// its [`EntryId`], its lifetime starts again, its details and presence are replaced, and there is
    /// neither an event nor a hook. An absent [`token_file`](crate::Details::token_file) keeps its old value.
    /// With another mesh or other labels the session is replaced, because readers select sessions by them.
    ///
    /// A token in use can be registered again only by the process and the owner of its session. If the session
    /// or the registration has several processes, one that lives must be common to both; a renewal replaces
    /// the others.
    ///
    /// First removes all sessions that have expired at `now`, also if the registration fails. The error
    /// variants are checked in the order `TokenInUse`, `NeedsOldToken`, `TooManySessions`,
    /// `TooManyForOwner`, `TooManyBytes`, `TooManyBytesForOwner`.
    pub fn register(&self, mut new: NewSession, now: Moment) -> Result<Stored, RegisterError> {
        let token_ref = new.token.digest_and_zeroize(&self.0.token_key);
        let stored = self
            .mutate(now, |table, changes| {
                table.register(new, token_ref, now, changes)
            })
            .unwrap_or(Err(RegisterError::Paused))?;
        if stored.renewed {
            self.0.counters.count_renewal();
        }
        Ok(stored)
    }

    /// Returns what this registry keeps of a token, by which its session can be looked up.
    pub fn token_ref(&self, token: &impl Presented) -> TokenRef {
        token.token_ref(&self.0.token_key)
    }

    /// Returns the live session with this token. `None` if there is none, or if it has expired at `now`;
    /// an expired session is removed.
    ///
    /// O(1) and concurrent: takes one read lock that writers hold for one map operation only. Does not
    /// allocate.
    pub fn resolve(&self, token: &impl Presented, now: Moment) -> Option<Arc<Session>> {
        let session = self.0.by_token.find(self.token_ref(token).digest)?;
        if session.has_expired(now.boot) {
            return self.expire_entry(session.entry, now);
        }
        Some(session)
    }

    /// Returns the [`EventKind::Deregistered`] event of the last session of this owner, or of any, with this
    /// token, if that session was removed within the last minute. Fewer are kept if more than 4,096 sessions were removed in that
    /// time; the owner with most of them then loses his oldest one. A session that is live again under
    /// this token does not change the result.
    pub fn recently_gone(
        &self,
        token: &impl Presented,
        owner: Option<u32>,
        now: Moment,
    ) -> Option<Arc<Event>> {
        let digest = self.token_ref(token).digest;
        self.tombstones().find(digest, owner, now.boot)
    }

    /// Returns whether `token` is the token of `session`, whether or not the session is live.
    pub fn is_token_of(&self, token: &impl Presented, session: &Session) -> bool {
        self.token_ref(token).digest == *session.digest()
    }

    /// Returns all sessions in the order in which they were first stored. Includes expired ones that
    /// neither [`Self::expire`] nor a look-up has removed yet. O(n) under the table's lock.
    pub fn list(&self) -> Vec<Arc<Session>> {
        self.table().sessions().cloned().collect()
    }

    /// Returns the number of sessions; counts the same ones as [`Self::list`].
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// Returns whether there are no sessions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns up to `max` sessions, of one owner or of all, in the order in which they were first stored:
    /// those behind the session `after`, which may have been removed, or the first ones. A shorter page
    /// is the last one for now. O(`max` log n) under the table's lock.
    pub fn page(
        &self,
        after: Option<EntryId>,
        owner: Option<u32>,
        max: usize,
    ) -> Vec<Arc<Session>> {
        self.table().page(after.unwrap_or(EntryId(0)), owner, max)
    }

    /// Returns this owner's session with this id, even if it has expired and was not removed yet.
    pub fn session_named(&self, owner: u32, id: &SessionId) -> Option<Arc<Session>> {
        self.table().session_named(owner, id).cloned()
    }

    /// Returns the sessions of all owners with this id, at most one of each.
    pub fn sessions_named(&self, id: &SessionId) -> Vec<Arc<Session>> {
        self.table().sessions_named(id)
    }

    /// Returns the sessions that hang on a process in the order in which they were first stored.
    pub fn sessions_of(&self, process: ProcessId) -> Vec<Arc<Session>> {
        self.table().sessions_of(process)
    }

    /// Removes the session with this token ([`Removal::Requested`]) and returns it; `None` if no live
    /// session has it. Also removes all sessions that have expired at `now`.
    pub fn deregister(&self, token: &impl Presented, now: Moment) -> Option<Arc<Session>> {
        let digest = self.token_ref(token).digest;
        self.mutate(now, |table, changes| {
            table.expire(now.boot, changes);
            let entry = self.0.by_token.find(digest)?.entry;
            table.remove(entry, Removal::Requested, changes)
        })
        .flatten()
    }

    /// Removes the session with this entry id and returns it; `None` if it has been removed already. A
    /// session that replaced it has another entry id and is not affected.
    pub fn remove_entry(
        &self,
        entry: EntryId,
        removal: Removal,
        now: Moment,
    ) -> Option<Arc<Session>> {
        self.mutate(now, |table, changes| table.remove(entry, removal, changes))
            .flatten()
    }

    /// Removes this session and returns it; `None` if it has been removed or renewed since it was
    /// returned.
    pub fn remove_unchanged(
        &self,
        session: &Arc<Session>,
        removal: Removal,
        now: Moment,
    ) -> Option<Arc<Session>> {
        self.mutate(now, |table, changes| {
            let stored = table.session(session.entry)?;
            session
                .is_same_registration(stored)
                .then(|| table.remove(session.entry, removal, changes))
                .flatten()
        })
        .flatten()
    }

    /// Ends a dead process for every session that hangs on it: removes those that hang on no other one
    /// ([`Removal::Died`]), and notes the end in the others. Returns how many there were; 0 if the
    /// process has none, as in a second call for the same process. The table's lock is released after
    /// every few hundred, so that others need not wait for all of them.
    pub fn remove_process(&self, process: ProcessId, death: Death, now: Moment) -> usize {
        let mut removed = 0;
        loop {
            let part = self.remove_some_of_process(process, death, now, REMOVED_AT_ONCE);
            removed += part;
            if part < REMOVED_AT_ONCE {
                return removed;
            }
        }
    }

    /// As [`Self::remove_process`], but for up to `max` sessions only, those first that were stored
    /// first. If it returns less than `max`, none is left. For a caller that does something else in
    /// between, such as letting subscribers read.
    pub fn remove_some_of_process(
        &self,
        process: ProcessId,
        death: Death,
        now: Moment,
        max: usize,
    ) -> usize {
        self.mutate(now, |table, changes| {
            table.remove_process(process, death, now, max, changes)
        })
        .unwrap_or(0)
    }

    /// Removes every session that has expired at `now` ([`Removal::Expired`]). Returns how many it
    /// removed. Also drops what [`Self::recently_gone`] does not return any more. Costs nothing for
    /// sessions that have not expired. Call it regularly.
    pub fn expire(&self, now: Moment) -> usize {
        self.tombstones().drop_expired(now.boot);
        self.mutate(now, |table, changes| {
            table.expire(now.boot, changes);
            changes.len()
        })
        .unwrap_or(0)
    }

    /// Returns a subscription to the events from now on, of one owner or of all, and the highest
    /// [`EntryId`] so far, as one atomic step.
    ///
    /// So a reader can copy the state piece by piece: it reads pages ([`Self::page`]) up to that entry id,
    /// and then the events. A session that ends before its page is read is absent, and its event follows.
    ///
    /// A subscription of one owner also gets the events of no session.
    pub fn subscribe(&self, owner: Option<u32>) -> (Subscription, EntryId) {
        // Events are appended under the table's lock, so position and entry id are consistent.
        let table = self.table();
        let position = self.0.log.next_seq();
        let subscription = Subscription::at(self.0.log.clone(), position, owner);
        (subscription, table.last_entry())
    }

    /// Returns a subscription, of one owner or of all, that continues after the event with
    /// [`Event::seq`] `last_seen`; 0 starts with the oldest event. `None` if there is no event `last_seen`
    /// yet. If events of this subscription after it are not kept any more, the first result is a
    /// [`Next::Gap`](crate::Next::Gap).
    pub fn resume(&self, last_seen: u64, owner: Option<u32>) -> Option<Subscription> {
        (last_seen < self.0.log.next_seq())
            .then(|| Subscription::at(self.0.log.clone(), last_seen + 1, owner))
    }

    /// Wipes the secret keys of all sessions, at the end of the program.
    pub fn wipe_secret_keys(&self) {
        for session in self.list() {
            session.wipe_secret_key();
        }
    }

    /// Returns the [`EventKind::Deregistered`] event of the session, of this owner or of any, whose process
    /// ended last. `None` if there was none, or if its event is not kept any more.
    pub fn last_death(&self, owner: Option<u32>) -> Option<Arc<Event>> {
        self.0.log.last_death(owner)
    }

    /// Returns some [`EventKind::Deregistered`] events that the history keeps, of the sessions of one owner or
    /// of all: the newest first, those before the event `before` or the last ones. May return none although
    /// there are some. The second value is `before` for the next ones; `None`: there are none. O(256 log n)
    /// under the lock of the history.
    pub fn ended(&self, before: Option<u64>, owner: Option<u32>) -> (Vec<Arc<Event>>, Option<u64>) {
        self.0.log.ended(before.unwrap_or(u64::MAX), owner)
    }

    /// Returns how many calls of hooks, of `on_event`, `on_removed` and `on_released` functions have panicked so far.
    pub fn hook_panics(&self) -> u64 {
        self.0.hooks.panics()
    }

    /// Returns how many sessions were stored and removed without a call of their register and deregister
    /// hooks, because the queue of waiting hook calls was full. Not 0 only if a hook blocks.
    pub fn hooks_lost(&self) -> u64 {
        self.0.hooks.lost()
    }

    /// Removes one expired session that a look-up found. Not all expired ones, to keep look-ups cheap.
    /// Returns the session instead if it has been renewed since it was found.
    pub(crate) fn expire_entry(&self, entry: EntryId, now: Moment) -> Option<Arc<Session>> {
        self.mutate(now, |table, changes| {
            table.expire_entry(entry, now.boot, changes)
        })
        .flatten()
    }

    fn tombstones(&self) -> MutexGuard<'_, Tombstones> {
        self.0
            .tombstones
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.table().check_invariants();
        self.0.log.check_invariants();
        self.tombstones().check_invariants();
    }

    /// Returns the number of tombstones.
    #[cfg(test)]
    pub(crate) fn tombstone_count(&self) -> usize {
        self.tombstones().len()
    }

    /// Returns how many hook calls wait or run.
    #[cfg(test)]
    pub(crate) fn waiting_hooks(&self) -> usize {
        self.0.hooks.waiting()
    }
}
