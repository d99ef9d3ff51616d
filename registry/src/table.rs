//! The state machine: every transition of the registry. Time is passed in, changes are passed out.
//!
//! The indexes are updated together in `place`, `insert`, `renew` and `unlink` or `remove` only.

mod owners;
pub(crate) mod token_index;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Limits, Rules};
use crate::error::RegisterError;
use crate::hooks::Change;
use crate::lifetime::{Lifetimes, Ttl};
use crate::process::ProcessId;
use crate::registry::Stored;
use crate::removal::{Death, Removal};
use crate::session::{EntryId, NewSession, Session, SessionId, SessionKey};
use crate::sharing::{Claim, Sharing};
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
    by_process: BTreeSet<(ProcessId, EntryId)>,
    by_token: Arc<TokenIndex>,
    owners: Owners,
    /// The size of all sessions.
    bytes: usize,
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
        }
    }

    /// Changes the settings. Stored sessions keep their lifetimes, and stay beyond lower limits.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        let Rules {
            ttl,
            max_ttl,
            limits,
            strict_replace,
        } = rules;
        self.limits = limits;
        self.lifetimes = Lifetimes {
            default: ttl,
            max: max_ttl,
        };
        self.strict_replace = strict_replace;
    }

    /// Stores a session after removing what it replaces: its owner's session of its id and the session of
    /// its token. If both are one session of the same process and owner, renews that one instead.
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
        // `authorize` has checked that sessions with the same token have the same process and owner.
        if let Some(old) = same_id.as_ref().filter(of_this_token) {
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
            *old.digest() == digest && (old.process.id != new.process.id || old.owner != new.owner)
        };
        if same_id.iter().chain(&same_token).any(of_another) {
            return Err(RegisterError::TokenInUse);
        }
        if self.strict_replace && same_id.is_some_and(|old| *old.digest() != digest) {
            return Err(RegisterError::NeedsOldToken);
        }
        Ok(())
    }

    /// Checks the limits as they are once the sessions that the registration replaces, all of the same
    /// owner, have been removed.
    fn check_limits<'a, I: Iterator<Item = &'a Session>>(
        &self,
        new: &NewSession,
        replaced: impl Fn() -> I,
    ) -> Result<(), RegisterError> {
        let Limits {
            sessions, bytes, ..
        } = self.limits;
        let owner = new.owner;
        let (most, most_bytes) = self.most(owner);
        let (held, held_bytes) = self.owners.holdings(owner);
        let freed = replaced().count();
        if self.sessions.len() - freed >= sessions {
            return Err(RegisterError::TooManySessions { limit: sessions });
        }
        // A share that has shrunk takes nothing back.
        let limit = most.max(held.min(self.limits.sessions_per_owner));
        if held - freed >= limit {
            return Err(RegisterError::TooManyForOwner { owner, limit });
        }
        let freed: usize = replaced().map(|old| old.bytes).sum();
        let added = new.bytes();
        if self.bytes - freed + added > bytes {
            return Err(RegisterError::TooManyBytes { limit: bytes });
        }
        let limit = most_bytes.max(held_bytes.min(self.limits.bytes_per_owner));
        if held_bytes - freed + added > limit {
            return Err(RegisterError::TooManyBytesForOwner { owner, limit });
        }
        Ok(())
    }

    /// Returns how many sessions a user may have now, and how many bytes.
    pub(crate) fn most(&self, owner: u32) -> (usize, usize) {
        let Limits {
            sessions,
            sessions_per_owner,
            bytes,
            bytes_per_owner,
        } = self.limits;
        let Some(sharing) = &self.sharing else {
            return (sessions_per_owner, bytes_per_owner);
        };
        let share = |total, held: fn((usize, usize)) -> usize| {
            let others = self.owners.all().filter(|other| *other != owner);
            let others: Vec<_> = others
                .map(|other| (other, held(self.owners.holdings(other))))
                .collect();
            sharing(&Claim {
                owner,
                total,
                others: &others,
            })
        };
        (
            share(sessions, |(count, _)| count).min(sessions_per_owner),
            share(bytes, |(_, bytes)| bytes).min(bytes_per_owner),
        )
    }

    fn insert(&mut self, new: NewSession, token: TokenRef, now: Moment) -> Arc<Session> {
        let entry = EntryId(self.next_entry);
        self.next_entry += 1;
        let granted = self.lifetimes.granted(new.ttl);
        let session = self.place(entry, new, token, granted, now);
        self.by_id.insert(session.key(), entry);
        self.by_process.insert((session.process.id, entry));
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
        self.displace(old);
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
        self.owners.add(&session);
        self.bytes += session.bytes;
        self.sessions.insert(entry, session.clone());
        self.by_token.put(session.clone());
        session
    }

    /// Takes back what `place` has added, except what the next `place` of this entry replaces.
    fn displace(&mut self, session: &Session) {
        self.owners.subtract(session);
        self.bytes -= session.bytes;
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
        self.by_process.remove(&(session.process.id, entry));
        session.wipe_secret_key();
        changes.push(Change::Deregistered(session.clone(), removal));
        Some(session)
    }

    /// Removes up to `max` sessions of a process, those first that were stored first.
    pub(crate) fn remove_process(
        &mut self,
        process: ProcessId,
        death: Death,
        max: usize,
        changes: &mut Vec<Change>,
    ) {
        let entries = self.entries_of(process).take(max);
        for entry in entries.collect::<Vec<_>>() {
            self.remove(entry, Removal::Died(death), changes);
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

    pub(crate) fn sessions_of(&self, process: ProcessId) -> Vec<Arc<Session>> {
        self.entries_of(process)
            .filter_map(|entry| self.sessions.get(&entry).cloned())
            .collect()
    }

    fn entries_of(&self, process: ProcessId) -> impl Iterator<Item = EntryId> {
        let range = (process, EntryId(0))..=(process, EntryId(u64::MAX));
        self.by_process.range(range).map(|(_, entry)| *entry)
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
        assert_eq!(self.sessions.len(), self.by_process.len());
        assert_eq!(self.sessions.len(), self.by_token.len());
        let bytes: usize = self.sessions.values().map(|session| session.bytes).sum();
        assert_eq!(self.bytes, bytes);
        let held = self.owners.all().map(|owner| self.owners.holdings(owner));
        let held = held.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        assert_eq!(held, (self.sessions.len(), bytes));
        let expiring = self.sessions.values().filter(|s| s.expires_at.is_some());
        assert_eq!(expiring.count(), self.by_last_moment.len());
        for (entry, session) in &self.sessions {
            assert_eq!(*entry, session.entry);
            assert_eq!(self.by_id.get(&session.key()), Some(entry));
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
