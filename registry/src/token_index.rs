//! Token to session, the one index that is read without the table's lock.
//!
//! Resolving is what every request does, so it must neither wait for a registration nor make two
//! readers fight over one lock's counter. Hence shards, chosen by bits of the digest that the map
//! inside does not use. The table is the only writer.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use crate::session::Session;
use crate::token::TokenDigest;

/// Enough that two of a few readers seldom meet; each costs one cache line and an empty map.
const SHARDS: usize = 64;

type Map = HashMap<TokenDigest, Arc<Session>, BuildHasherDefault<DigestBits>>;

/// Kept apart from its neighbours' cache lines (two of them: the prefetcher fetches pairs).
#[derive(Default)]
#[repr(align(128))]
struct Shard(RwLock<Map>);

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
            .cloned()
    }

    pub(crate) fn insert(&self, digest: TokenDigest, session: Arc<Session>) {
        self.shard(digest)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest, session);
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

    fn shard(&self, digest: TokenDigest) -> &RwLock<Map> {
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
