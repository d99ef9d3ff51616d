//! Token to session, the one index that is read without the table's lock.
//!
//! Resolving is what every request does, so it must neither wait for a registration nor make two
//! readers fight over one lock's counter. Hence shards, chosen by bits of the digest that the map
//! inside does not use. The table is the only writer.
//!
//! A look-up costs what its cache misses cost. So a slot is a bare pointer, and the digest to compare
//! is read from the session itself, whose cache line the caller is about to touch anyway: a hundred
//! thousand slots then fit in a core's own cache.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use crate::session::Session;
use crate::token::TokenDigest;

/// Enough that two of a few readers seldom meet, and that a full shard which grows, and for that
/// reads the digest of each of its sessions again, is short; each costs two cache lines.
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

/// Kept apart from its neighbours' cache lines (two of them: the prefetcher fetches pairs).
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

    /// Takes the place of the session that had the same token, if one had it: in one step, so that
    /// no reader finds the token unknown in between.
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
        // Not reached by `TokenDigest`; right for any other key all the same.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}
