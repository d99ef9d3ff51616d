//! The state machine: every transition of the registry. Time is passed in, changes are passed out.
//!
//! The indexes are updated together in `place`, `insert`, `renew` and `unlink` or `remove` only.

pub(crate) mod token_index;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Authority, Limits};
use crate::error::RegisterError;
use crate::hooks::Change;
use crate::lifetime::{Lifetimes, Ttl};
use crate::process::ProcessId;
use crate::registry::Stored;
use crate::removal::{Death, Removal};
use crate::session::{EntryId, NewSession, Session, SessionId};
use crate::table::token_index::TokenIndex;
use crate::time::{BootTime, Moment};
use crate::token::{TokenDigest, TokenRef};

pub(crate) struct Table {
    limits: Limits,
    lifetimes: Lifetimes,
    strict_replace: bool,
    next_entry: u64,
    /// In order of registration.
    sessions: BTreeMap<EntryId, Arc<Session>>,
    /// The sessions that expire, by their last moment.
    by_last_moment: BTreeSet<(BootTime, EntryId)>,
    by_id: HashMap<SessionId, EntryId>,
    by_process: BTreeSet<(ProcessId, EntryId)>,
    by_token: Arc<TokenIndex>,
    per_owner: HashMap<u32, usize>,
}

impl Table {
    pub(crate) fn new(
        limits: Limits,
        lifetimes: Lifetimes,
        strict_replace: bool,
        by_token: Arc<TokenIndex>,
    ) -> Self {
        Self {
            limits,
            lifetimes,
            strict_replace,
            next_entry: 1,
            sessions: BTreeMap::new(),
            by_last_moment: BTreeSet::new(),
            by_id: HashMap::new(),
            by_process: BTreeSet::new(),
            by_token,
            per_owner: HashMap::new(),
        }
    }

    /// Stores a session after removing what it replaces: the session of its id and the session of its
    /// token. If both are one session of the same process and owner, renews that one instead.
    pub(crate) fn register(
        &mut self,
        mut new: NewSession,
        token: TokenRef,
        authority: Authority,
        now: Moment,
        changes: &mut Vec<Change>,
    ) -> Result<Stored, RegisterError> {
        let digest = token.digest;
        self.expire(now.boot, changes);
        let same_id = self
            .by_id
            .get(&new.id)
            .and_then(|entry| self.sessions.get(entry))
            .cloned();
        let same_token = self
            .by_token
            .find(digest)
            .filter(|found| same_id.as_ref().is_none_or(|old| old.entry != found.entry));
        self.authorize(
            &new,
            digest,
            authority,
            same_id.as_deref(),
            same_token.as_deref(),
        )?;

        let of_this_token = |old: &&Arc<Session>| *old.digest() == digest;
        if let Some(old) = same_id.iter().chain(&same_token).find(of_this_token) {
            // The token file of the session still contains this token, even if the caller did not name it.
            let token_file = &mut new.details.token_file;
            *token_file = token_file.take().or_else(|| old.details.token_file.clone());
        }
        // `authorize` has checked that sessions with the same token have the same process.
        let renews = |old: &&Arc<Session>| *old.digest() == digest && old.owner == new.owner;
        if let Some(old) = same_id.as_ref().filter(renews) {
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
            token_from: same_token.map(|old| old.id.clone()),
        });
        Ok(Stored {
            session,
            renewed: false,
        })
    }

    /// Checks the registration against the sessions that it would replace and against the limits.
    fn authorize(
        &self,
        new: &NewSession,
        digest: TokenDigest,
        authority: Authority,
        same_id: Option<&Session>,
        same_token: Option<&Session>,
    ) -> Result<(), RegisterError> {
        let replaced = || same_id.into_iter().chain(same_token);
        if authority == Authority::Owner && replaced().any(|old| old.owner != new.owner) {
            return Err(RegisterError::NotOwner);
        }
        let of_another = |old: &Session| old.process.id != new.process.id;
        if replaced().any(|old| *old.digest() == digest && of_another(old)) {
            return Err(RegisterError::TokenInUse);
        }
        if self.strict_replace && same_id.is_some_and(|old| *old.digest() != digest) {
            return Err(RegisterError::NeedsOldToken);
        }
        if self.sessions.len() - replaced().count() >= self.limits.sessions {
            return Err(RegisterError::TooManySessions {
                limit: self.limits.sessions,
            });
        }
        let owned = self.owned(new.owner);
        let freed = replaced().filter(|old| old.owner == new.owner).count();
        if owned - freed >= self.limits.sessions_per_owner {
            return Err(RegisterError::TooManyForOwner {
                owner: new.owner,
                limit: self.limits.sessions_per_owner,
            });
        }
        Ok(())
    }

    fn insert(&mut self, new: NewSession, token: TokenRef, now: Moment) -> Arc<Session> {
        let entry = EntryId(self.next_entry);
        self.next_entry += 1;
        let granted = self.lifetimes.granted(new.ttl);
        let session = self.place(entry, new, token, granted, now);
        self.by_id.insert(session.id.clone(), entry);
        self.by_process.insert((session.process.id, entry));
        *self.per_owner.entry(session.owner).or_default() += 1;
        session
    }

    /// Replaces the value of a session of the same id, token, process and owner; the entry id stays.
    fn renew(
        &mut self,
        old: &Session,
        new: NewSession,
        token: TokenRef,
        now: Moment,
    ) -> Arc<Session> {
        if let Some(start_time) = old.process.start_time() {
            new.process.learn_start_time(start_time);
        }
        self.unlink_last_moment(old);
        // Without a request, the lifetime that was granted before applies again.
        let granted = match new.ttl {
            Ttl::Default => old
                .expires_at
                .map(|last| last.boot.since(old.registered_at.boot)),
            requested => self.lifetimes.granted(requested),
        };
        let session = self.place(old.entry, new, token, granted, now);
        // Readers may keep the old value for any time.
        old.wipe_secret_key();
        session
    }

    /// The common part of `insert` and `renew`.
    fn place(
        &mut self,
        entry: EntryId,
        new: NewSession,
        token: TokenRef,
        granted: Option<Duration>,
        now: Moment,
    ) -> Arc<Session> {
        let expires_at = granted.map(|ttl| now.after(ttl));
        let session = Arc::new(Session::store(new, entry, token, now, expires_at));
        if let Some(last) = expires_at {
            self.by_last_moment.insert((last.boot, entry));
        }
        self.sessions.insert(entry, session.clone());
        self.by_token.put(session.clone());
        session
    }

    fn unlink_last_moment(&mut self, session: &Session) {
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
        self.unlink_last_moment(&session);
        self.by_id.remove(&session.id);
        self.by_process.remove(&(session.process.id, entry));
        if let Some(count) = self.per_owner.get_mut(&session.owner) {
            *count -= 1;
            if *count == 0 {
                self.per_owner.remove(&session.owner);
            }
        }
        session.wipe_secret_key();
        changes.push(Change::Deregistered(session.clone(), removal));
        Some(session)
    }

    pub(crate) fn remove_process(
        &mut self,
        process: ProcessId,
        death: Death,
        changes: &mut Vec<Change>,
    ) {
        for session in self.sessions_of(process) {
            self.remove(session.entry, Removal::Died(death), changes);
        }
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

    /// Returns the users that have sessions.
    pub(crate) fn owners(&self) -> impl Iterator<Item = u32> {
        self.per_owner.keys().copied()
    }

    /// Returns how many sessions this user has.
    pub(crate) fn owned(&self, owner: u32) -> usize {
        self.per_owner.get(&owner).copied().unwrap_or(0)
    }

    pub(crate) fn sessions_of(&self, process: ProcessId) -> Vec<Arc<Session>> {
        self.by_process
            .range((process, EntryId(0))..=(process, EntryId(u64::MAX)))
            .filter_map(|(_, entry)| self.sessions.get(entry).cloned())
            .collect()
    }

    pub(crate) fn session_named(&self, id: &SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(self.by_id.get(id)?)
    }

    /// Asserts that all indexes contain the same sessions.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.sessions.len(), self.by_id.len(), "one session per id");
        assert_eq!(self.sessions.len(), self.by_process.len());
        assert_eq!(self.sessions.len(), self.by_token.len());
        assert_eq!(self.sessions.len(), self.per_owner.values().sum::<usize>());
        let expiring = self.sessions.values().filter(|s| s.expires_at.is_some());
        assert_eq!(expiring.count(), self.by_last_moment.len());
        for (entry, session) in &self.sessions {
            assert_eq!(*entry, session.entry);
            assert_eq!(self.by_id.get(&session.id), Some(entry));
            assert!(self.by_process.contains(&(session.process.id, *entry)));
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
