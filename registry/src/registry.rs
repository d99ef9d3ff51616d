//! The shared handle: one lock around the table, and everything that must not happen under it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::RegisterError;
use crate::event::{Event, EventKind, SourceState};
use crate::event_log::{EventLog, Subscription, Waker};
use crate::graves::Graves;
use crate::hooks::{Change, HookRun, HookRunner, Hooks};
use crate::process::ProcessId;
use crate::removal::{Death, Removal};
use crate::session::{EntryId, NewSession, Session, SessionId};
use crate::table::Table;
use crate::time::Moment;
use crate::token::{Token, TokenKey};
use crate::token_index::TokenIndex;

/// How old a session can get: a day, as the origin of this registry has it.
const DEFAULT_TTL: Duration = Duration::from_hours(24);
/// How many events a late reader finds.
const DEFAULT_EVENT_CAPACITY: usize = 4_096;

type OnRemoved = Box<dyn Fn(&Session) + Send + Sync>;

/// Ceilings on what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live sessions in all.
    pub sessions: usize,
    /// Live sessions of one user.
    pub sessions_per_owner: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 100_000,
            sessions_per_owner: 10_000,
        }
    }
}

/// Whose live sessions a registration may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Those of its own owner.
    Owner,
    /// Anybody's.
    Any,
}

/// A registry that clones share. All methods take `&self`, return quickly and can be called from
/// any thread, from hooks too.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    table: Mutex<Table>,
    graves: Mutex<Graves>,
    by_token: Arc<TokenIndex>,
    token_key: TokenKey,
    ttl: Duration,
    log: Arc<EventLog>,
    hooks: Hooks,
    run_hooks: Option<HookRunner>,
    on_removed: Option<OnRemoved>,
}

/// What a registry is made of.
pub struct RegistryBuilder {
    token_key: TokenKey,
    ttl: Duration,
    limits: Limits,
    strict_replace: bool,
    event_capacity: usize,
    wake: Option<Waker>,
    hooks: Hooks,
    run_hooks: Option<HookRunner>,
    on_removed: Option<OnRemoved>,
}

impl RegistryBuilder {
    /// The age past which a session is removed whatever its process does; 24 h unless set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Ceilings; 100,000 sessions and 10,000 per user unless set.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether replacing a live session id needs the token that it has; off unless set.
    pub fn strict_replace(mut self, strict: bool) -> Self {
        self.strict_replace = strict;
        self
    }

    /// How many events are kept for readers; 4,096 unless set.
    pub fn event_capacity(mut self, events: usize) -> Self {
        self.event_capacity = events;
        self
    }

    /// `wake` is called when there are new events, once for all of one call, with no lock held and
    /// before the hooks run. A panic in it is contained and counted like a hook's.
    pub fn on_event(mut self, wake: impl Fn() + Send + Sync + 'static) -> Self {
        self.wake = Some(Box::new(wake));
        self
    }

    /// Adds a hook that runs once for each stored session, with no lock held: on the thread that
    /// stored it, or on the one that runs a hook of the same session id at that moment. A panic in it
    /// is contained and counted.
    pub fn on_register(mut self, hook: impl Fn(&Arc<Session>) + Send + Sync + 'static) -> Self {
        self.hooks.on_register.push(Box::new(hook));
        self
    }

    /// Adds a hook that runs once for each removed session, after its `on_register` hooks and
    /// before those of the session that replaces it or bears its id next. Otherwise as
    /// [`Self::on_register`].
    pub fn on_deregister(
        mut self,
        hook: impl Fn(&Arc<Session>, &Removal) + Send + Sync + 'static,
    ) -> Self {
        self.hooks.on_deregister.push(Box::new(hook));
        self
    }

    /// `release` is called once for each removed session, on the thread that removed it, right after
    /// the lock and before the hooks: for whoever holds something for the session's sake. It must be
    /// quick. It is never left out, as hooks are when too many of them wait.
    pub fn on_removed(mut self, release: impl Fn(&Session) + Send + Sync + 'static) -> Self {
        self.on_removed = Some(Box::new(release));
        self
    }

    /// Whether any hook has been added.
    pub fn has_hooks(&self) -> bool {
        !self.hooks.none()
    }

    /// Hands the hooks of each mutation to `runner` instead of running them on the mutating thread,
    /// so that one that blocks holds up neither. Which thread runs what is the runner's choice: the
    /// order within a session is kept whatever it does, as long as it runs everything once.
    pub fn run_hooks_by(mut self, runner: impl Fn(HookRun) + Send + Sync + 'static) -> Self {
        self.run_hooks = Some(Box::new(runner));
        self
    }

    /// The registry, empty.
    pub fn build(self) -> Registry {
        let by_token = Arc::new(TokenIndex::new());
        let table = Table::new(self.limits, self.ttl, self.strict_replace, by_token.clone());
        Registry(Arc::new(Shared {
            table: Mutex::new(table),
            graves: Mutex::default(),
            by_token,
            token_key: self.token_key,
            ttl: self.ttl,
            log: Arc::new(EventLog::new(self.event_capacity, self.wake)),
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
        RegistryBuilder {
            token_key,
            ttl: DEFAULT_TTL,
            limits: Limits::default(),
            strict_replace: false,
            event_capacity: DEFAULT_EVENT_CAPACITY,
            wake: None,
            hooks: Hooks::default(),
            run_hooks: None,
            on_removed: None,
        }
    }

    /// Stores a session, replacing the live one of the same id and the one that held its token.
    pub fn register(
        &self,
        mut new: NewSession,
        authority: Authority,
        now: Moment,
    ) -> Result<Arc<Session>, RegisterError> {
        let stand_in = new.token.retire(&self.0.token_key);
        self.mutate(now, |table, changes| {
            table.register(new, stand_in, authority, now, changes)
        })
    }

    /// The live session of this token. A concurrent read: it takes no lock that a registration, a
    /// removal or a hook holds for longer than one map operation, and does not allocate.
    pub fn resolve(&self, token: &Token, now: Moment) -> Option<Arc<Session>> {
        let session = self.0.by_token.find(self.0.token_key.digest(token))?;
        if session.is_older_than(self.0.ttl, now.boot) {
            // This one alone: a look-up does not pay for a sweep.
            self.remove_entry(session.entry, Removal::Expired, now);
            return None;
        }
        Some(session)
    }

    /// The end of the session that had this token, if that was less than a minute ago.
    pub fn recently_gone(&self, token: &Token, now: Moment) -> Option<Arc<Event>> {
        let digest = self.0.token_key.digest(token);
        self.0
            .graves
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .find(digest, now.boot)
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
        let Some(release) = &self.0.on_removed else {
            return;
        };
        for change in changes {
            if let Change::Deregistered(session, _) = change {
                self.0.hooks.contain(|| release(session));
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
                    .graves
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .bury(*session.digest(), event);
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
        self.0.graves.lock().unwrap().check_invariants();
    }

    /// How many ended sessions are remembered.
    #[cfg(test)]
    pub(crate) fn graves(&self) -> usize {
        self.0.graves.lock().unwrap().len()
    }

    /// How many hook calls wait or run.
    #[cfg(test)]
    pub(crate) fn waiting_hooks(&self) -> usize {
        self.0.hooks.waiting()
    }
}
