//! A simple model of the registry: a list that is searched from front to back every time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::support::Seen;
use crate::*;

#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) entry: EntryId,
    pub(super) id: &'static str,
    pub(super) token: u64,
    pub(super) process: u64,
    pub(super) further: Vec<u64>,
    pub(super) ended: Vec<u64>,
    pub(super) owner: u32,
    pub(super) ttl: Ttl,
    /// The length of its working directory.
    pub(super) cwd: usize,
    /// How many labels it has.
    pub(super) labels: u8,
    pub(super) mesh: &'static str,
    pub(super) bytes: usize,
    last_nanos: Option<u64>,
}

impl Live {
    /// Each process once.
    pub(super) fn processes(&self) -> Vec<u64> {
        let mut processes = vec![self.process];
        for further in &self.further {
            if !processes.contains(further) {
                processes.push(*further);
            }
        }
        processes
    }

    pub(super) fn living(&self) -> Vec<u64> {
        let mut living = self.processes();
        living.retain(|process| !self.ended.contains(process));
        living
    }
}

/// An event and the token of its session, for tombstones.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModelEvent {
    pub(super) id: &'static str,
    pub(super) seen: Seen,
    token: u64,
    at: BootTime,
}

pub(super) struct Model {
    pub(super) ttl: Option<Duration>,
    pub(super) max_ttl: Option<Duration>,
    pub(super) limits: Limits,
    pub(super) strict: bool,
    pub(super) event_capacity: usize,
    pub(super) live: Vec<Live>,
    /// The event with sequence number n has index n - 1.
    pub(super) events: Vec<ModelEvent>,
    pub(super) stored: u64,
    /// The events that are kept, the oldest first.
    pub(super) kept: Vec<Kept>,
    pub(super) dropped: Vec<Kept>,
    /// Events that were not kept at a restart, so that they are no tombstones after it.
    pub(super) lost: BTreeSet<u64>,
}

/// An event that is kept.
pub(super) struct Kept {
    seq: u64,
    pub(super) owner: u32,
    weight: usize,
}

impl Model {
    pub(super) fn register(
        &mut self,
        new: &Live,
        now: Moment,
    ) -> Result<(EntryId, bool), RegisterError> {
        self.expire(now);
        let has_id = |old: &Live| old.id == new.id && old.owner == new.owner;
        let replaced = |old: &Live| has_id(old) || old.token == new.token;
        let (gone, stay): (Vec<_>, Vec<_>) = self.live.iter().cloned().partition(replaced);
        let of_another = |old: &Live| {
            let living = old.living();
            old.owner != new.owner || new.processes().iter().all(|it| !living.contains(it))
        };
        let in_use = |old: &Live| old.token == new.token && of_another(old);
        if gone.iter().any(in_use) {
            return Err(RegisterError::TokenInUse);
        }
        let keeps_token = |old: &Live| old.id != new.id || old.token == new.token;
        if self.strict && !gone.iter().all(keeps_token) {
            return Err(RegisterError::NeedsOldToken);
        }
        let Limits {
            sessions,
            sessions_per_owner,
            bytes,
            bytes_per_owner,
        } = self.limits;
        let weight = |of: &dyn Fn(&&Live) -> bool| -> usize {
            let processes = stay.iter().filter(of).map(|old| old.processes().len());
            processes.sum::<usize>() + 1 + new.further.len()
        };
        if weight(&|_| true) > sessions {
            return Err(RegisterError::TooManySessions { limit: sessions });
        }
        if weight(&|old| old.owner == new.owner) > sessions_per_owner {
            return Err(RegisterError::TooManyForOwner {
                owner: new.owner,
                limit: sessions_per_owner,
            });
        }
        let size = |of: &dyn Fn(&&Live) -> bool| -> usize {
            let sizes = stay.iter().filter(of).map(|old| old.bytes);
            sizes.sum::<usize>() + new.bytes
        };
        if size(&|_| true) > bytes {
            return Err(RegisterError::TooManyBytes { limit: bytes });
        }
        if size(&|old| old.owner == new.owner) > bytes_per_owner {
            let (owner, limit) = (new.owner, bytes_per_owner);
            return Err(RegisterError::TooManyBytesForOwner { owner, limit });
        }
        let is_same = |old: &Live| {
            (old.id, old.token, old.owner, old.labels, old.mesh)
                == (new.id, new.token, new.owner, new.labels, new.mesh)
        };
        if let Some(index) = self.live.iter().position(is_same) {
            let ttl = match new.ttl {
                Ttl::Default => self.live[index].ttl,
                asked => asked,
            };
            let last_nanos = self.last_nanos(ttl, now);
            let renewed = &mut self.live[index];
            (renewed.ttl, renewed.last_nanos) = (ttl, last_nanos);
            (renewed.cwd, renewed.bytes) = (new.cwd, new.bytes);
            (renewed.process, renewed.further) = (new.process, new.further.clone());
            renewed.ended.clear();
            return Ok((renewed.entry, true));
        }
        let last_nanos = self.last_nanos(new.ttl, now);
        let (by_id, by_token): (Vec<_>, Vec<_>) = gone.iter().partition(|old| has_id(old));
        for old in by_id.into_iter().chain(by_token) {
            self.remove(old.entry, Removal::Replaced, now);
        }
        self.stored += 1;
        let stored = Live {
            entry: EntryId(self.stored),
            last_nanos,
            ..new.clone()
        };
        self.append(&stored, Seen::Registered(stored.entry), now);
        self.live.push(stored);
        Ok((EntryId(self.stored), false))
    }

    pub(super) fn resolve(&mut self, token: u64, now: Moment) -> Option<EntryId> {
        let found = self.live.iter().find(|live| live.token == token)?.clone();
        if is_expired(&found, now) {
            self.remove(found.entry, Removal::Expired, now);
            return None;
        }
        Some(found.entry)
    }

    pub(super) fn deregister(&mut self, token: u64, now: Moment) -> Option<EntryId> {
        self.expire(now);
        let entry = self.live.iter().find(|live| live.token == token)?.entry;
        self.remove(entry, Removal::Requested, now);
        Some(entry)
    }

    pub(super) fn remove(&mut self, entry: EntryId, removal: Removal, now: Moment) -> bool {
        let Some(index) = self.live.iter().position(|live| live.entry == entry) else {
            return false;
        };
        let gone = self.live.remove(index);
        self.append(&gone, Seen::Deregistered(entry, removal), now);
        true
    }

    /// Returns how many sessions hung on the process.
    pub(super) fn remove_process(&mut self, process: u64, removal: Removal, now: Moment) -> usize {
        let hanging = |live: &&mut Live| live.living().contains(&process);
        let hanging: Vec<_> = self.live.iter_mut().filter(hanging).collect();
        let count = hanging.len();
        for live in hanging {
            live.ended.push(process);
        }
        let dead = self.live.iter().filter(|live| live.living().is_empty());
        for entry in dead.map(|live| live.entry).collect::<Vec<_>>() {
            self.remove(entry, removal, now);
        }
        count
    }

    pub(super) fn expire(&mut self, now: Moment) -> usize {
        let mut gone = self.live.clone();
        gone.retain(|live| is_expired(live, now));
        gone.sort_by_key(|live| (live.last_nanos, live.entry));
        for live in &gone {
            self.remove(live.entry, Removal::Expired, now);
        }
        gone.len()
    }

    fn last_nanos(&self, asked: Ttl, now: Moment) -> Option<u64> {
        let forever = Duration::from_nanos(u64::MAX);
        let asked = match asked {
            Ttl::Default => self.ttl.unwrap_or(forever),
            Ttl::For(ttl) => ttl,
            Ttl::Process => forever,
        };
        let granted = asked.min(self.max_ttl.unwrap_or(forever));
        let granted = u64::try_from(granted.as_nanos()).unwrap();
        (granted < u64::MAX).then(|| now.boot.as_nanos() + granted)
    }

    /// Returns the sequence number of the last removal under this token, if it is at most a minute ago.
    pub(super) fn tombstone(&self, token: u64, now: Moment) -> Option<u64> {
        let numbered = (1..).zip(&self.events);
        let (seq, last) = numbered
            .filter(|(seq, event)| {
                event.token == token
                    && matches!(event.seen, Seen::Deregistered(..))
                    && !self.lost.contains(seq)
            })
            .last()?;
        (now.boot.since(last.at) <= Duration::from_mins(1)).then_some(seq)
    }

    /// The registry was built again from its journal.
    pub(super) fn restart(&mut self) {
        let is_kept = |seq: &u64| self.kept.iter().any(|it| it.seq == *seq);
        let lost: Vec<_> = (1..self.next_seq()).filter(|seq| !is_kept(seq)).collect();
        self.lost.extend(lost);
    }

    pub(super) fn next_seq(&self) -> u64 {
        u64::try_from(self.events.len()).unwrap() + 1
    }

    /// Returns the last event that was dropped, of one owner or of all; 0 if none was.
    pub(super) fn dropped(&self, owner: Option<u32>) -> u64 {
        let of_it = self.dropped.iter().filter(|it| shows(owner, it.owner));
        of_it.map(|it| it.seq).max().unwrap_or(0)
    }

    /// Returns the first event from this one on that is kept, of one owner or of all.
    pub(super) fn next_kept(&self, seq: u64, owner: Option<u32>) -> Option<u64> {
        let kept = self.kept.iter().filter(|it| shows(owner, it.owner));
        kept.map(|it| it.seq).find(|kept| *kept >= seq)
    }

    /// Returns the kept events of ended sessions, of one owner or of all, the newest first.
    pub(super) fn ended(&self, owner: Option<u32>) -> Vec<u64> {
        let seen = |seq: u64| self.events[usize::try_from(seq - 1).unwrap()].seen;
        let is_end = |it: &&Kept| matches!(seen(it.seq), Seen::Deregistered(..));
        let kept = self.kept.iter().filter(|it| shows(owner, it.owner));
        kept.filter(is_end).map(|it| it.seq).rev().collect()
    }

    fn weight(&self, is_meant: impl Fn(&Kept) -> bool) -> usize {
        let meant = self.kept.iter().filter(|it| is_meant(it));
        meant.map(|it| it.weight).sum()
    }

    fn keep_event(&mut self, seq: u64, session: &Live) {
        let owner = session.owner;
        let weight = session.bytes.div_ceil(2_048).min(self.event_capacity);
        self.kept.push(Kept { seq, owner, weight });
        while self.weight(|_| true) > self.event_capacity {
            let share = |it: &Kept| self.weight(|other| other.owner == it.owner);
            let most = self.kept.iter().map(share).max();
            let oldest = self.kept.iter().position(|it| Some(share(it)) == most);
            self.dropped.push(self.kept.remove(oldest.unwrap()));
        }
    }

    fn append(&mut self, session: &Live, seen: Seen, now: Moment) {
        self.keep_event(self.next_seq(), session);
        self.events.push(ModelEvent {
            id: session.id,
            seen,
            token: session.token,
            at: now.boot,
        });
    }
}

fn shows(scope: Option<u32>, owner: u32) -> bool {
    scope.is_none_or(|scope| scope == owner)
}

pub(super) fn is_expired(live: &Live, now: Moment) -> bool {
    live.last_nanos
        .is_some_and(|last| now.boot.as_nanos() > last)
}

/// A session that is not registered yet.
pub(super) fn unregistered(
    id: &'static str,
    token: u64,
    (process, further): (u64, Vec<u64>),
    owner: u32,
    ttl: Ttl,
    (mesh, labels): (&'static str, u8),
    cwd: usize,
) -> Live {
    Live {
        entry: EntryId(0),
        id,
        token,
        process,
        further,
        ended: Vec::new(),
        owner,
        ttl,
        cwd,
        labels,
        mesh,
        bytes: 0,
        last_nanos: None,
    }
}
