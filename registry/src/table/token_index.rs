//! The index from token to session, the only one that is read without the table's lock.
//!
//! Every request resolves a token. So a look-up must not wait for a registration, and readers must not
//! contend for the counter of one lock. Hence the index has shards, chosen by bits of the digest that the
//! hash map does not use. Only the table writes to it, under its lock.
//!
//! The cost of a look-up is that of its cache misses. So a slot is a single pointer, and the digest to
//! compare is read from the session, whose cache line the caller reads next anyway: 100,000 slots then
//! fit in the private cache of a core.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use crate::session::Session;
use crate::token::TokenDigest;

/// So many that a few readers seldom use the same shard at once, and that growing a full shard, which
/// reads the digest of each of its sessions, is short. Each shard takes two cache lines.
const SHARDS: usize = 256;

type Slots = HashSet<ByDigest, BuildHasherDefault<DigestBits>>;

/// A session that hashes and compares as its digest.
struct ByDigest(Arc<Session>);

impl Borrow<TokenDigest> for ByDigest {
    fn borrow(&self) -> &TokenDigest {
        self.0.digest()
    }
}

impl Hash for ByDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.digest().hash(state);
    }
}

impl PartialEq for ByDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest() == other.0.digest()
    }
}

impl Eq for ByDigest {}

/// Does not share cache lines with its neighbours. Aligned to two lines, because the prefetcher fetches
/// pairs.
#[derive(Default)]
#[repr(align(128))]
struct Shard(RwLock<Slots>);

pub(crate) struct TokenIndex(Box<[Shard]>);

impl TokenIndex {
    pub(crate) fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard::default()).collect())
    }

    pub(crate) fn find(&self, digest: TokenDigest) -> Option<Arc<Session>> {
        self.shard(digest)
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&digest)
            .map(|slot| slot.0.clone())
    }

    /// Inserts a session, or replaces the one with the same token in one step, so that the token resolves
    /// for every reader at any time.
    pub(crate) fn put(&self, session: Arc<Session>) {
        self.shard(*session.digest())
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(ByDigest(session));
    }

    pub(crate) fn remove(&self, digest: TokenDigest) {
        self.shard(digest)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&digest);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0
            .iter()
            .map(|shard| shard.0.read().unwrap().len())
            .sum()
    }

    fn shard(&self, digest: TokenDigest) -> &RwLock<Slots> {
        let [.., last] = digest.0.to_le_bytes();
        &self.0[usize::from(last) % SHARDS].0
    }
}

/// A digest is the output of a keyed pseudo-random function: its bits are a hash already.
#[derive(Default)]
struct DigestBits(u64);

impl Hasher for DigestBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u128(&mut self, digest: u128) {
        let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = digest.to_le_bytes();
        self.0 = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not called for a `TokenDigest`; correct for any other key too.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}
