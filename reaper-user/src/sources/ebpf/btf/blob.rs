//! Writes small BTF blobs for tests and fuzz oracles: types in the order in which they are added,
//! numbered from 1. It checks nothing, so that wrong blobs can be written too.

use super::walk::MAGIC;

/// A blob under construction.
#[derive(Default)]
pub struct Blob {
    types: Vec<u8>,
    names: Vec<u8>,
    count: u32,
}

#[cfg(test)]
pub(crate) const PLAIN: bool = false;
#[cfg(test)]
pub(crate) const BIT_FIELDS: bool = true;

/// Enough for the offsets of every blob here.
const SIZE: u32 = 1 << 16;

impl Blob {
    /// Creates a blob without types.
    pub fn new() -> Self {
        Self {
            names: vec![0],
            ..Self::default()
        }
    }

    /// Adds a type without members.
    pub fn simple(&mut self, kind: u32, size_or_type: u32, trailer: &[u32]) -> u32 {
        self.push(&[0, kind << 24, size_or_type]);
        self.push(trailer);
        self.count += 1;
        self.count
    }

    /// Adds a type with members: name, type and offset as in the format.
    ///
    /// # Panics
    ///
    /// If the blob has 4 GiB.
    pub fn composite(
        &mut self,
        kind: u32,
        name: &str,
        bit_fields: bool,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let count = u32::try_from(members.len()).expect("a few members");
        // Any size with space for the offsets will do, except for the one counter.
        let is_counter = matches!(members, [("counter", ..)]);
        let size = if is_counter { 4 } else { SIZE };
        let name = self.name(name);
        self.push(&[name, u32::from(bit_fields) << 31 | kind << 24 | count, size]);
        for (name, type_id, offset) in members {
            let name = self.name(name);
            self.push(&[name, *type_id, *offset]);
        }
        self.count += 1;
        self.count
    }

    /// Returns the bytes of the blob.
    ///
    /// # Panics
    ///
    /// If it has 4 GiB.
    pub fn finish(&self) -> Vec<u8> {
        let [types, names] =
            [&self.types, &self.names].map(|part| u32::try_from(part.len()).expect("a small blob"));
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        blob.extend([1, 0]);
        for word in [24, 0, types, types, names] {
            blob.extend(word.to_ne_bytes());
        }
        blob.extend(&self.types);
        blob.extend(&self.names);
        blob
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.names.len()).expect("a small blob");
        self.names.extend(name.as_bytes());
        self.names.push(0);
        at
    }

    fn push(&mut self, words: &[u32]) {
        self.types
            .extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }
}
