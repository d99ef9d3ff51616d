//! Recently removed sessions by token digest, so that a token that was never registered can be
//! distinguished from one that was valid a moment ago. Keeps digests and events, never a token or a key.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::events::Event;
use crate::time::BootTime;
use crate::token::TokenDigest;

/// How long a removed session is kept.
const RETENTION: Duration = Duration::from_mins(1);
/// How many are kept at most. If more sessions end within a minute, the oldest are dropped early.
pub(crate) const CAPACITY: usize = 4_096;

#[derive(Default)]
pub(crate) struct Tombstones {
    by_digest: HashMap<TokenDigest, Arc<Event>>,
    oldest_first: VecDeque<(TokenDigest, u64)>,
}

impl Tombstones {
    pub(crate) fn insert(&mut self, digest: TokenDigest, event: Arc<Event>) {
        self.drop_expired(event.at.boot);
        if self.oldest_first.len() == CAPACITY {
            self.drop_oldest();
        }
        self.oldest_first.push_back((digest, event.seq));
        self.by_digest.insert(digest, event);
    }

    pub(crate) fn find(&self, digest: TokenDigest, now: BootTime) -> Option<Arc<Event>> {
        self.by_digest
            .get(&digest)
            .filter(|event| now.since(event.at.boot) <= RETENTION)
            .cloned()
    }

    fn drop_expired(&mut self, now: BootTime) {
        while let Some((digest, seq)) = self.oldest_first.front() {
            let is_current = self
                .by_digest
                .get(digest)
                .is_some_and(|event| event.seq == *seq && now.since(event.at.boot) <= RETENTION);
            if is_current {
                return;
            }
            self.drop_oldest();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.oldest_first.len()
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        assert!(
            self.oldest_first.len() <= CAPACITY,
            "tombstones are bounded"
        );
        assert!(self.by_digest.len() <= self.oldest_first.len());
        for (digest, event) in &self.by_digest {
            assert!(self.oldest_first.contains(&(*digest, event.seq)));
        }
    }

    fn drop_oldest(&mut self) {
        let Some((digest, seq)) = self.oldest_first.pop_front() else {
            return;
        };
        // If the token was registered and removed again, a newer tombstone has the same digest: keep it.
        if self
            .by_digest
            .get(&digest)
            .is_some_and(|event| event.seq == seq)
        {
            self.by_digest.remove(&digest);
        }
    }
}
