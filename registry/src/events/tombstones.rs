//! Recently removed sessions by token digest, so that a token that was never registered can be
//! distinguished from one that was valid a moment ago. Keeps digests and events, never a token or a key.

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
    by_digest: HashMap<TokenDigest, Arc<Event>>,
    /// By the number of the event: the oldest first.
    by_seq: BTreeMap<u64, TokenDigest>,
    shares: Shares<Option<u32>>,
}

impl Tombstones {
    pub(crate) fn insert(&mut self, digest: TokenDigest, event: Arc<Event>) {
        self.drop_expired(event.at.boot);
        self.by_seq.insert(event.seq, digest);
        self.shares.add(event.owner(), event.seq, event.weight());
        // If the token was registered and removed before, only the last removal counts.
        if let Some(former) = self.by_digest.insert(digest, event) {
            self.by_seq.remove(&former.seq);
            self.shares.remove(former.owner(), former.seq);
        }
        while self.shares.weight() > CAPACITY
            && let Some(seq) = self.shares.drop_one()
        {
            if let Some(digest) = self.by_seq.remove(&seq) {
                self.by_digest.remove(&digest);
            }
        }
    }

    pub(crate) fn find(&self, digest: TokenDigest, now: BootTime) -> Option<Arc<Event>> {
        self.by_digest
            .get(&digest)
            .filter(|event| now.since(event.at.boot) <= RETENTION)
            .cloned()
    }

    pub(crate) fn drop_expired(&mut self, now: BootTime) {
        while let Some(oldest) = self.by_seq.first_entry() {
            let event = &self.by_digest[oldest.get()];
            if now.since(event.at.boot) <= RETENTION {
                return;
            }
            self.shares.remove(event.owner(), event.seq);
            self.by_digest.remove(&oldest.remove());
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_seq.len()
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        assert!(self.shares.weight() <= CAPACITY, "tombstones are bounded");
        assert_eq!(self.by_digest.len(), self.by_seq.len());
        self.shares.check_invariants(self.by_seq.len());
        for (digest, event) in &self.by_digest {
            assert!(self.by_seq.get(&event.seq) == Some(digest));
        }
    }
}
