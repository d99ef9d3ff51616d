//! The state machine: every transition of the registry. Time is passed in, changes are passed out.
//!
//! The indexes are updated together in `place`, `insert`, `renew` and `unlink` or `remove` only, and at the end
//! of one of several processes (`processes.rs`).

mod limits;
mod owners;
mod processes;
pub(crate) mod token_index;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Limits;
use crate::error::RegisterError;
use crate::hooks::Change;
use crate::lifetime::{Lifetimes, Ttl};
use crate::process::ProcessId;
use crate::registry::Stored;
use crate::removal::Removal;
use crate::session::{EntryId, NewSession, Session, SessionId, SessionKey};
use crate::sharing::Sharing;
use crate::table::owners::Owners;
use crate::table::token_index::TokenIndex;
use crate::time::{BootTime, Moment};
use crate::token::{TokenDigest, TokenRef};

pub(crate) struct Table {
    limits: Limits,
    sharing: Option<Sharing>,
    lifetimes: Lifetimes,
    strict_replace: bool,
    next_entry: u64,
    /// In order of registration.
    sessions: BTreeMap<EntryId, Arc<Session>>,
    /// The sessions that expire, by their last moment.
    by_last_moment: BTreeSet<(BootTime, EntryId)>,
    by_id: BTreeMap<SessionKey, EntryId>,
    /// A session has one link for each process that it still hangs on.
    by_process: BTreeSet<(ProcessId, EntryId)>,
    by_token: Arc<TokenIndex>,
    owners: Owners,
    /// The size of all sessions.
    bytes: usize,
    /// The sum of [`Session::weight`].
    weight: usize,
    /// The values before and after each renewal of this step and each end of one of several processes.
    succeeded: Vec<(Arc<Session>, Arc<Session>)>,
    /// The process of each link that was taken away in this step.
    released: Vec<ProcessId>,
}

impl Table {
    pub(crate) fn new(
        limits: Limits,
        sharing: Option<Sharing>,
        lifetimes: Lifetimes,
        strict_replace: bool,
        by_token: Arc<TokenIndex>,
    ) -> Self {
        Self {
            limits,
            sharing,
            lifetimes,
            strict_replace,
            next_entry: 1,
            sessions: BTreeMap::new(),
            by_last_moment: BTreeSet::new(),
            by_id: BTreeMap::new(),
            by_process: BTreeSet::new(),
            by_token,
            owners: Owners::default(),
            bytes: 0,
            weight: 0,
            succeeded: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Adds the sessions of an earlier table, with their ids.
    pub(crate) fn restore(&mut self, mut sessions: Vec<Arc<Session>>, next_entry: u64) {
        sessions.sort_by_key(|session| session.entry);
        self.next_entry = next_entry.max(1);
        for session in sessions {
            self.by_id.insert(session.key(), session.entry);
            self.link_processes(&session);
            self.link(session);
        }
    }

    /// Takes the values that were succeeded by others in this step: each with its successor, in order.
    pub(crate) fn take_succeeded(&mut self) -> Vec<(Arc<Session>, Arc<Session>)> {
        std::mem::take(&mut self.succeeded)
    }

    /// Takes the processes of which sessions do not hang on any more because of this step, each as often as
    /// there were such sessions.
    pub(crate) fn take_released(&mut self) -> Vec<ProcessId> {
        std::mem::take(&mut self.released)
    }

    /// Stores a session after removing what it replaces: its owner's session of its id and the session of
    /// its token. If both are one session of the same process and owner, and readers select it as before,
    /// renews that one instead. Several processes are the same if the session still hangs on one of them.
    pub(crate) fn register(
        &mut self,
        mut new: NewSession,
        token: TokenRef,
        now: Moment,
        changes: &mut Vec<Change>,
    ) -> Result<Stored, RegisterError> {
        let digest = token.digest;
        self.expire(now.boot, changes);
        let same_id = self.session_named(new.owner, &new.id).cloned();
        let same_token = self
            .by_token
            .find(digest)
            .filter(|found| same_id.as_ref().is_none_or(|old| old.entry != found.entry));
        self.authorize(&new, digest, same_id.as_deref(), same_token.as_deref())?;

        let of_this_token = |old: &&Arc<Session>| *old.digest() == digest;
        if let Some(old) = same_id.iter().chain(&same_token).find(of_this_token) {
            // The token file of the session still contains this token, even if the caller did not name it.
            let token_file = &mut new.details.token_file;
            *token_file = token_file.take().or_else(|| old.details.token_file.clone());
        }
        let replaced = || same_id.iter().chain(&same_token).map(AsRef::as_ref);
        self.check_limits(&new, replaced)?;
        // `authorize` has checked that sessions with the same token have a process in common and the same owner.
        let is_renewal = |old: &&_| of_this_token(old) && new.details.is_selected_as(&old.details);
        if let Some(old) = same_id.as_ref().filter(is_renewal) {
            return Ok(Stored {
                session: self.renew(old, new, token, now),
                renewed: true,
            });
        }
        for replaced in same_id.iter().chain(&same_token) {
            if *replaced.digest() == digest {
                // The token must resolve at any time: `insert` replaces the session in the index.
                self.unlink(replaced.entry, Removal::Replaced, changes);
            } else {
                self.remove(replaced.entry, Removal::Replaced, changes);
            }
        }
        let session = self.insert(new, token, now);
        changes.push(Change::Registered {
            session: session.clone(),
            token_from: same_token.map(|old| old.key()),
        });
        Ok(Stored {
            session,
            renewed: false,
        })
    }

    /// Checks the registration against the sessions that it would replace.
    fn authorize(
        &self,
        new: &NewSession,
        digest: TokenDigest,
        same_id: Option<&Session>,
        same_token: Option<&Session>,
    ) -> Result<(), RegisterError> {
        let of_another = |old: &&Session| {
            let is_same = || new.processes().any(|it| old.hangs_on(it.id));
            *old.digest() == digest && (old.owner != new.owner || !is_same())
        };
        if same_id.iter().chain(&same_token).any(of_another) {
            return Err(RegisterError::TokenInUse);
        }
        if self.strict_replace && same_id.is_some_and(|old| *old.digest() != digest) {
            return Err(RegisterError::NeedsOldToken);
        }
        Ok(())
    }

    fn insert(&mut self, new: NewSession, token: TokenRef, now: Moment) -> Arc<Session> {
        let entry = EntryId(self.next_entry);
        self.next_entry += 1;
        let granted = self.lifetimes.granted(new.ttl);
        let session = self.place(entry, new, token, granted, (now, now));
        self.by_id.insert(session.key(), entry);
        self.link_processes(&session);
        session
    }

    /// Replaces the value of a session of the same id, token, process and owner; the entry id stays. The new
    /// processes take the place of the former ones, each of which is released.
    fn renew(
        &mut self,
        old: &Arc<Session>,
        new: NewSession,
        token: TokenRef,
        now: Moment,
    ) -> Arc<Session> {
        if new.process.id == old.process.id
            && let Some(start_time) = old.process.start_time()
        {
            new.process.learn_start_time(start_time);
        }
        self.displace(old);
        for process in old.living() {
            self.unlink_process(process.id, old.entry);
        }
        // Without a request, the lifetime that was granted before applies again.
        let granted = match new.ttl {
            Ttl::Default => old
                .expires_at
                .map(|last| last.boot.since(old.registered_at.boot)),
            requested => self.lifetimes.granted(requested),
        };
        let session = self.place(old.entry, new, token, granted, (old.started_at, now));
        self.link_processes(&session);
        self.succeeded.push((old.clone(), session.clone()));
        session
    }

    /// The common part of `insert` and `renew`.
    fn place(
        &mut self,
        entry: EntryId,
        new: NewSession,
        token: TokenRef,
        granted: Option<Duration>,
        (started_at, now): (Moment, Moment),
    ) -> Arc<Session> {
        let expires_at = granted.map(|ttl| now.after(ttl));
        let times = (started_at, now);
        let session = Arc::new(Session::store(new, entry, token, times, expires_at));
        self.link(session.clone());
        session
    }

    fn link(&mut self, session: Arc<Session>) {
        if let Some(last) = session.expires_at {
            self.by_last_moment.insert((last.boot, session.entry));
        }
        self.owners.add(&session);
        self.bytes += session.bytes;
        self.weight += session.weight();
        self.sessions.insert(session.entry, session.clone());
        self.by_token.put(session);
    }

    /// Takes back what `place` has added, except what the next `place` of this entry replaces.
    fn displace(&mut self, session: &Session) {
        self.owners.subtract(session);
        self.bytes -= session.bytes;
        self.weight -= session.weight();
        if let Some(last) = session.expires_at {
            self.by_last_moment.remove(&(last.boot, session.entry));
        }
    }

    /// Returns the session with this entry id.
    pub(crate) fn session(&self, entry: EntryId) -> Option<&Arc<Session>> {
        self.sessions.get(&entry)
    }

    /// Removes the session with this entry id; a second call changes nothing and returns `None`.
    pub(crate) fn remove(
        &mut self,
        entry: EntryId,
        removal: Removal,
        changes: &mut Vec<Change>,
    ) -> Option<Arc<Session>> {
        let session = self.unlink(entry, removal, changes)?;
        self.by_token.remove(*session.digest());
        Some(session)
    }

    /// As [`Self::remove`], but leaves the token index unchanged.
    fn unlink(
        &mut self,
        entry: EntryId,
        removal: Removal,
        changes: &mut Vec<Change>,
    ) -> Option<Arc<Session>> {
        let session = self.sessions.remove(&entry)?;
        self.displace(&session);
        self.by_id.remove(&session.key());
        for process in session.living() {
            self.unlink_process(process.id, entry);
        }
        changes.push(Change::Deregistered(session.clone(), removal));
        Some(session)
    }

    /// Removes every session past its last moment. Costs nothing for the others.
    pub(crate) fn expire(&mut self, now: BootTime, changes: &mut Vec<Change>) {
        while let Some(&(_, entry)) = self.by_last_moment.first().filter(|(last, _)| now > *last) {
            self.remove(entry, Removal::Expired, changes);
        }
    }

    /// Removes the session if it is past its last moment, and otherwise returns it.
    pub(crate) fn expire_entry(
        &mut self,
        entry: EntryId,
        now: BootTime,
        changes: &mut Vec<Change>,
    ) -> Option<Arc<Session>> {
        let session = self.sessions.get(&entry)?;
        if session.has_expired(now) {
            self.remove(entry, Removal::Expired, changes);
            return None;
        }
        Some(session.clone())
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn session_named(&self, owner: u32, id: &SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(self.by_id.get(&(id.clone(), owner))?)
    }

    /// Returns the sessions with this id, at most one of each owner.
    pub(crate) fn sessions_named(&self, id: &SessionId) -> Vec<Arc<Session>> {
        self.by_id
            .range((id.clone(), 0)..=(id.clone(), u32::MAX))
            .filter_map(|(_, entry)| self.sessions.get(entry).cloned())
            .collect()
    }

    /// Returns up to `max` sessions behind `after`, of one owner or of all, in order of registration.
    pub(crate) fn page(&self, after: EntryId, owner: Option<u32>, max: usize) -> Vec<Arc<Session>> {
        match owner {
            None => self
                .sessions
                .range((Bound::Excluded(after), Bound::Unbounded))
                .map(|(_, session)| session.clone())
                .take(max)
                .collect(),
            Some(owner) => self
                .owners
                .entries(owner, after)
                .filter_map(|entry| self.sessions.get(&entry).cloned())
                .take(max)
                .collect(),
        }
    }

    /// Returns the highest entry id so far; 0 if there was no session yet.
    pub(crate) fn last_entry(&self) -> EntryId {
        EntryId(self.next_entry - 1)
    }

    pub(crate) fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Asserts that all indexes contain the same sessions.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.sessions.len(), self.by_id.len(), "one session per id");
        let links: usize = self.sessions.values().map(|it| it.living().count()).sum();
        assert_eq!(links, self.by_process.len());
        let weight: usize = self.sessions.values().map(|it| it.weight()).sum();
        assert_eq!(weight, self.weight);
        assert_eq!(self.sessions.len(), self.by_token.len());
        let bytes: usize = self.sessions.values().map(|session| session.bytes).sum();
        assert_eq!(self.bytes, bytes);
        let held = self.owners.all().map(|owner| self.owners.holdings(owner));
        let held = held.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        assert_eq!(held, (weight, bytes));
        let expiring = self.sessions.values().filter(|s| s.expires_at.is_some());
        assert_eq!(expiring.count(), self.by_last_moment.len());
        for (entry, session) in &self.sessions {
            assert_eq!(*entry, session.entry);
            assert_eq!(self.by_id.get(&session.key()), Some(entry));
            assert!(session.living().next().is_some(), "it hangs on something");
            for process in session.living() {
                assert!(self.by_process.contains(&(process.id, *entry)));
            }
            if let Some(last) = session.expires_at {
                assert!(self.by_last_moment.contains(&(last.boot, *entry)));
            }
            let found = self
                .by_token
                .find(*session.digest())
                .expect("a live token resolves");
            assert_eq!(found.entry, *entry);
        }
    }
}
