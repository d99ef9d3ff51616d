//! What each user has in the table. A user without sessions has no record here.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use crate::session::{EntryId, Session};

#[derive(Default)]
pub(crate) struct Owners(HashMap<u32, Holdings>);

#[derive(Default)]
struct Holdings {
    /// In order of registration.
    entries: BTreeSet<EntryId>,
    bytes: usize,
    /// The weights of all.
    weight: usize,
}

impl Owners {
    pub(crate) fn add(&mut self, session: &Session) {
        let holdings = self.0.entry(session.owner).or_default();
        holdings.entries.insert(session.entry);
        holdings.bytes += session.bytes;
        holdings.weight += session.weight();
    }

    pub(crate) fn subtract(&mut self, session: &Session) {
        if let Some(holdings) = self.0.get_mut(&session.owner) {
            holdings.entries.remove(&session.entry);
            holdings.bytes -= session.bytes;
            holdings.weight -= session.weight();
            if holdings.entries.is_empty() {
                self.0.remove(&session.owner);
            }
        }
    }

    /// Returns the number of sessions of this user, one of several processes as one for each, and their bytes.
    pub(crate) fn holdings(&self, owner: u32) -> (usize, usize) {
        self.0
            .get(&owner)
            .map_or((0, 0), |held| (held.weight, held.bytes))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// Returns the entries of this user behind `after`, in order of registration.
    pub(crate) fn entries(&self, owner: u32, after: EntryId) -> impl Iterator<Item = EntryId> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.0
            .get(&owner)
            .into_iter()
            .flat_map(move |held| held.entries.range(behind).copied())
    }
}
