//! Who has how much of a bounded history. The oldest entry of the owner that has most is dropped first,
//! so the history of one owner cannot displace that of another which has less.
//!
//! Entries have weights, so that large ones take more of a share. With *n* owners, each keeps at least the
//! last 1/*n* of the whole.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

pub(crate) struct Shares<K> {
    of: HashMap<K, Share>,
    /// By weight; of equal shares the one whose first entry is oldest is last.
    by_weight: BTreeSet<(usize, Reverse<u64>, K)>,
    /// Of all entries.
    weight: usize,
    /// The last entry that was dropped of an owner that has no share any more.
    forgotten: u64,
}

struct Share {
    /// The entries and their weights.
    weights: BTreeMap<u64, usize>,
    weight: usize,
    /// The last entry of this owner that was dropped, or may have been; 0 if none.
    dropped: u64,
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self {
            of: HashMap::new(),
            by_weight: BTreeSet::new(),
            weight: 0,
            forgotten: 0,
        }
    }
}

impl<K: Copy + Ord + Hash> Shares<K> {
    /// Adds the newest entry.
    pub(crate) fn add(&mut self, owner: K, seq: u64, weight: usize) {
        let dropped = self.forgotten;
        let share = self.of.entry(owner).or_insert_with(|| Share {
            weights: BTreeMap::new(),
            weight: 0,
            dropped,
        });
        let before = share.rank(owner);
        share.weights.insert(seq, weight);
        share.weight += weight;
        self.weight += weight;
        let after = share.rank(owner);
        self.rerank(before, after);
    }

    /// Adds an entry that was kept before a restart; in ascending order. `previous` is the one before it
    /// of this owner.
    pub(crate) fn restore(&mut self, owner: K, seq: u64, weight: usize, previous: u64) {
        let is_first = !self.of.contains_key(&owner);
        self.add(owner, seq, weight);
        if is_first && let Some(share) = self.of.get_mut(&owner) {
            share.dropped = previous;
        }
    }

    /// Sets what is known of owners without entries, after all entries have been restored.
    pub(crate) fn set_forgotten(&mut self, seq: u64) {
        self.forgotten = seq;
    }

    /// Returns the last entry that was dropped of an owner that has no share any more; 0 if none.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Returns the newest entry of this owner, or what is known to be not before it.
    pub(crate) fn last(&self, owner: K) -> u64 {
        let newest = |share: &Share| share.weights.last_key_value().map(|(seq, _)| *seq);
        let share = self.of.get(&owner);
        share.map_or(self.forgotten, |share| {
            newest(share).unwrap_or(share.dropped)
        })
    }

    /// Removes an entry that is not needed any more.
    pub(crate) fn remove(&mut self, owner: K, seq: u64) {
        let Some(share) = self.of.get_mut(&owner) else {
            return;
        };
        let before = share.rank(owner);
        let weight = share.weights.remove(&seq).unwrap_or(0);
        share.weight -= weight;
        self.weight -= weight;
        let after = share.rank(owner);
        if after.is_none() {
            self.forgotten = self.forgotten.max(share.dropped);
            self.of.remove(&owner);
        }
        self.rerank(before, after);
    }

    /// Drops the oldest entry of the largest share and returns it.
    pub(crate) fn drop_one(&mut self) -> Option<u64> {
        let &(_, Reverse(seq), owner) = self.by_weight.last()?;
        if let Some(share) = self.of.get_mut(&owner) {
            share.dropped = share.dropped.max(seq);
        }
        self.remove(owner, seq);
        Some(seq)
    }

    /// Returns the weight of all entries.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Returns the last entry of this owner that was dropped; 0 if none. For an owner without entries
    /// this may be too much, because nothing is kept of it.
    pub(crate) fn dropped(&self, owner: K) -> u64 {
        self.of
            .get(&owner)
            .map_or(self.forgotten, |share| share.dropped)
    }

    /// Returns the first entry of this owner from `seq` on.
    pub(crate) fn next(&self, owner: K, seq: u64) -> Option<u64> {
        let mut later = self.of.get(&owner)?.weights.range(seq..);
        later.next().map(|(seq, _)| *seq)
    }

    /// Returns the entries of this owner before `seq`, the newest first.
    pub(crate) fn before(&self, owner: K, seq: u64) -> impl Iterator<Item = u64> {
        let share = self.of.get(&owner);
        let weights = share
            .into_iter()
            .flat_map(move |it| it.weights.range(..seq).rev());
        weights.map(|(seq, _)| *seq)
    }

    /// Returns how many entries this owner has.
    pub(crate) fn count(&self, owner: K) -> usize {
        self.of.get(&owner).map_or(0, |share| share.weights.len())
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = K> {
        self.of.keys().copied()
    }

    fn rerank(&mut self, before: Option<Rank<K>>, after: Option<Rank<K>>) {
        if let Some(before) = before {
            self.by_weight.remove(&before);
        }
        self.by_weight.extend(after);
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self, entries: usize) {
        let counted: usize = self.of.values().map(|share| share.weights.len()).sum();
        assert_eq!(counted, entries);
        let weight: usize = self.of.values().map(|share| share.weight).sum();
        assert_eq!(weight, self.weight);
        assert_eq!(self.of.len(), self.by_weight.len());
        for (owner, share) in &self.of {
            assert_eq!(share.weights.values().sum::<usize>(), share.weight);
            let rank = share.rank(*owner).expect("an owner without entries");
            assert!(self.by_weight.contains(&rank));
        }
    }
}

type Rank<K> = (usize, Reverse<u64>, K);

impl Share {
    fn rank<K>(&self, owner: K) -> Option<Rank<K>> {
        let (oldest, _) = self.weights.first_key_value()?;
        Some((self.weight, Reverse(*oldest), owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_the_largest_share_is_dropped_and_of_equal_ones_the_oldest() {
        let mut shares = Shares::default();
        for (owner, seq) in [("a", 1), ("b", 2), ("b", 3), ("b", 4), ("a", 5), ("c", 6)] {
            shares.add(owner, seq, 1);
        }
        let dropped: Vec<_> = std::iter::from_fn(|| shares.drop_one()).collect();
        assert_eq!(dropped, [2, 1, 3, 4, 5, 6]);
        shares.check_invariants(0);
    }

    #[test]
    fn an_owner_without_entries_is_forgotten_and_counts_as_dropped_up_to_its_last_one() {
        let mut shares = Shares::default();
        shares.add("a", 1, 1);
        shares.add("b", 2, 1);
        assert_eq!(shares.drop_one(), Some(1));
        assert_eq!((shares.dropped("a"), shares.dropped("b")), (1, 0));
        shares.add("a", 3, 1);
        shares.add("c", 4, 1);
        assert_eq!((shares.dropped("a"), shares.dropped("c")), (1, 1));
        shares.check_invariants(3);
    }

    #[test]
    fn a_heavy_entry_takes_as_much_of_a_share_as_several_light_ones() {
        let mut shares = Shares::default();
        for (owner, seq, weight) in [("a", 1, 1), ("a", 2, 1), ("b", 3, 3), ("a", 4, 1)] {
            shares.add(owner, seq, weight);
        }
        assert_eq!(shares.weight(), 6);
        let dropped: Vec<_> = std::iter::from_fn(|| shares.drop_one()).collect();
        assert_eq!(dropped, [1, 3, 2, 4]);
        shares.check_invariants(0);
    }
}
