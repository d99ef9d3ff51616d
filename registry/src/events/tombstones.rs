//! Sessions that ended a moment ago, so that "never existed" and "just died" are different answers.
//! Holds digests and reasons, never a token or a key.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::events::Event;
use crate::time::BootTime;
use crate::token::TokenDigest;

/// How long an ended session is remembered.
const REMEMBERED_FOR: Duration = Duration::from_mins(1);
/// How many are remembered at most; a mass death forgets its first ones early.
pub(crate) const CAPACITY: usize = 4_096;

#[derive(Default)]
pub(crate) struct Tombstones {
    by_digest: HashMap<TokenDigest, Arc<Event>>,
    oldest_first: VecDeque<(TokenDigest, u64)>,
}

impl Tombstones {
    pub(crate) fn insert(&mut self, digest: TokenDigest, event: Arc<Event>) {
        self.forget_old(event.at.boot);
        if self.oldest_first.len() == CAPACITY {
            self.forget_oldest();
        }
        self.oldest_first.push_back((digest, event.seq));
        self.by_digest.insert(digest, event);
    }

    pub(crate) fn find(&self, digest: TokenDigest, now: BootTime) -> Option<Arc<Event>> {
        self.by_digest
            .get(&digest)
            .filter(|event| now.since(event.at.boot) <= REMEMBERED_FOR)
            .cloned()
    }

    fn forget_old(&mut self, now: BootTime) {
        while let Some((digest, seq)) = self.oldest_first.front() {
            let still_young = self.by_digest.get(digest).is_some_and(|event| {
                event.seq == *seq && now.since(event.at.boot) <= REMEMBERED_FOR
            });
            if still_young {
                return;
            }
            self.forget_oldest();
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

    fn forget_oldest(&mut self) {
        let Some((digest, seq)) = self.oldest_first.pop_front() else {
            return;
        };
        // A token that ended twice has a younger grave under the same digest: leave that one.
        if self
            .by_digest
            .get(&digest)
            .is_some_and(|event| event.seq == seq)
        {
            self.by_digest.remove(&digest);
        }
    }
}
