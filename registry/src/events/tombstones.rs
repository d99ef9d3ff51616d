//! Recently removed sessions by token digest and owner, so that a token that was never registered can be
//! distinguished from one that was valid a moment ago. Keeps digests and events, never a token or a key.
//!
//! By owner too, because another user who registers the token of a session that has ended must not change
//! what is reported to its owner.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::events::Event;
use crate::events::shares::Shares;
use crate::time::BootTime;
use crate::token::TokenDigest;

/// How long a removed session is kept.
const RETENTION: Duration = Duration::from_mins(1);
/// The weight of those that are kept, which is their number unless they are large. If more sessions end
/// within a minute, the oldest of the owner that has most are dropped early.
pub(crate) const CAPACITY: usize = 4_096;

#[derive(Default)]
pub(crate) struct Tombstones {
    /// Of each token, at most one of each owner, the newest last.
    by_digest: HashMap<TokenDigest, Vec<Arc<Event>>>,
    /// By the number of the event: the oldest first.
    by_seq: BTreeMap<u64, TokenDigest>,
    shares: Shares<Option<u32>>,
}

impl Tombstones {
    pub(crate) fn insert(&mut self, digest: TokenDigest, event: Arc<Event>) {
        self.drop_expired(event.at.boot);
        // If the owner has registered and removed this token before, only the last removal counts.
        let former = self.newest(digest, |it| it.owner() == event.owner());
        if let Some(seq) = former.map(|former| former.seq) {
            self.shares.remove(event.owner(), seq);
            self.forget(seq);
        }
        self.by_seq.insert(event.seq, digest);
        self.shares.add(event.owner(), event.seq, event.weight());
        self.by_digest.entry(digest).or_default().push(event);
        while self.shares.weight() > CAPACITY
            && let Some(seq) = self.shares.drop_one()
        {
            self.forget(seq);
        }
    }

    /// Returns the last removal of a session of this owner, or of any, with this token.
    pub(crate) fn find(
        &self,
        digest: TokenDigest,
        owner: Option<u32>,
        now: BootTime,
    ) -> Option<Arc<Event>> {
        self.newest(digest, |event| owner.is_none() || event.owner() == owner)
            .filter(|event| now.since(event.at.boot) <= RETENTION)
            .cloned()
    }

    pub(crate) fn drop_expired(&mut self, now: BootTime) {
        while let Some((&seq, digest)) = self.by_seq.first_key_value() {
            let Some(event) = self.newest(*digest, |event| event.seq == seq) else {
                return;
            };
            if now.since(event.at.boot) <= RETENTION {
                return;
            }
            let owner = event.owner();
            self.shares.remove(owner, seq);
            self.forget(seq);
        }
    }

    fn newest(
        &self,
        digest: TokenDigest,
        is_meant: impl Fn(&Event) -> bool,
    ) -> Option<&Arc<Event>> {
        let events = self.by_digest.get(&digest)?;
        events.iter().rev().find(|event| is_meant(event))
    }

    fn forget(&mut self, seq: u64) {
        if let Some(digest) = self.by_seq.remove(&seq)
            && let Some(events) = self.by_digest.get_mut(&digest)
        {
            events.retain(|event| event.seq != seq);
            if events.is_empty() {
                self.by_digest.remove(&digest);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_seq.len()
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        assert!(self.shares.weight() <= CAPACITY, "tombstones are bounded");
        let kept: usize = self.by_digest.values().map(Vec::len).sum();
        assert_eq!(kept, self.by_seq.len());
        self.shares.check_invariants(self.by_seq.len());
        for (digest, events) in &self.by_digest {
            let owners: std::collections::BTreeSet<_> =
                events.iter().map(|it| it.owner()).collect();
            assert_eq!(owners.len(), events.len(), "one of each owner");
            assert!(events.is_sorted_by_key(|event| event.seq) && !events.is_empty());
            for event in events {
                assert!(self.by_seq.get(&event.seq) == Some(digest));
            }
        }
    }
}
