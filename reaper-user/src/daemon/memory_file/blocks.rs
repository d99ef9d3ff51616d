//! Blocks, chains of them, and which are free.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

use super::header;
use crate::sys::shared_file::SharedFile;

/// The size of a block: most sessions fit into one, events leave half of theirs empty.
pub(super) const BLOCK: usize = 256;
/// The words before the content: `born`, `died`, `ended`, kind and next block, length and checksum.
const HEAD: usize = 5 * 8;
const CONTENT: usize = BLOCK - HEAD;
/// The blocks of the header.
const FIRST: u32 = 16;
/// The blocks of a page of 4 KiB, of which larger pages have a multiple.
const PER_PAGE: u32 = 16;
/// How many free blocks keep their memory: 1 MiB.
const SPARE: usize = 4_096;

const BORN: usize = 0;
const DIED: usize = 8;
const ENDED: usize = 16;
const LINK: usize = 24;
const SUM: usize = 32;

/// The number of a block. That of a record is the number of its first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Block(u32);

impl Block {
    pub(super) fn numbered(number: u64) -> Self {
        Self(u32::try_from(number).unwrap_or(0))
    }

    pub(super) fn number(self) -> u64 {
        self.0.into()
    }

    const fn at(self) -> usize {
        self.0 as usize * BLOCK
    }
}

/// What a block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Session = 1,
    Event = 2,
    /// A part of the record whose chain leads here.
    Further = 3,
}

/// The blocks of a file.
pub(super) struct Blocks {
    pub(super) file: SharedFile,
    /// How many reasons there are to keep a session's record: that it is live, and its events. By block.
    references: Vec<u8>,
    free: BinaryHeap<Reverse<u32>>,
    /// What a step that was not completed has left.
    remains: Vec<Remains>,
    /// How many more writes take effect.
    #[cfg(test)]
    pub(super) writes_left: std::cell::Cell<Option<u64>>,
}

#[derive(Clone, Copy, Debug)]
enum Remains {
    /// A head whose step did not happen.
    Undo { at: usize },
    /// A block that is free and not empty.
    Wipe(Block),
}

/// A record that counts.
pub(super) struct Record {
    pub(super) block: Block,
    pub(super) kind: Kind,
    pub(super) has_ended: bool,
    /// `None`: its checksum does not match.
    pub(super) content: Option<Vec<u8>>,
}

impl Blocks {
    pub(super) fn create() -> io::Result<Self> {
        let mut blocks = Self::of(SharedFile::create("reaperd-table")?);
        blocks.add_free(FIRST);
        Ok(blocks)
    }

    fn of(file: SharedFile) -> Self {
        let count = file.size() / BLOCK;
        Self {
            file,
            references: vec![0; count],
            free: BinaryHeap::new(),
            remains: Vec::new(),
            #[cfg(test)]
            writes_left: std::cell::Cell::new(None),
        }
    }

    /// Reads every record that counts. Writes nothing.
    pub(super) fn read(file: SharedFile) -> (Self, Vec<Record>) {
        let mut blocks = Self::of(file);
        let committed = header::committed(&blocks.file);
        let mut is_used = vec![false; blocks.references.len()];
        let mut records = Vec::new();
        for block in (FIRST..blocks.count()).map(Block) {
            let [born, died, ended, link] =
                [BORN, DIED, ENDED, LINK].map(|field| blocks.load(block, field));
            let Some(kind) = Kind::of(link).filter(|kind| *kind != Kind::Further) else {
                continue;
            };
            if born == 0 || born > committed || (died != 0 && died <= committed) {
                continue;
            }
            for (field, step) in [(DIED, died), (ENDED, ended)] {
                if step > committed {
                    let at = block.at() + field;
                    blocks.remains.push(Remains::Undo { at });
                }
            }
            records.push(Record {
                block,
                kind,
                has_ended: ended != 0 && ended <= committed,
                content: blocks.content(block, &mut is_used),
            });
        }
        for block in (FIRST..blocks.count()).rev().map(Block) {
            if !is_used[block.0 as usize] {
                let heads = [BORN, DIED, ENDED, LINK, SUM];
                if heads.iter().any(|field| blocks.load(block, *field) != 0) {
                    blocks.remains.push(Remains::Wipe(block));
                }
                blocks.free.push(Reverse(block.0));
            }
        }
        (blocks, records)
    }

    /// Undoes what an incomplete step has left.
    pub(super) fn repair(&mut self) {
        for remains in std::mem::take(&mut self.remains) {
            match remains {
                Remains::Undo { at } => self.store_at(at, 0),
                Remains::Wipe(block) => self.wipe(block),
            }
        }
    }

    /// Leaves out a record that counts but cannot be read. Only its head is used again before the next
    /// restart: a damaged link may lead to blocks of another record.
    pub(super) fn discard(&mut self, head: Block) {
        self.remains.push(Remains::Wipe(head));
        self.free.push(Reverse(head.0));
    }

    /// Writes a record that will be born in this step.
    pub(super) fn put(&mut self, step: u64, kind: Kind, content: &[u8]) -> io::Result<Block> {
        let parts: Vec<_> = content.chunks(CONTENT).collect();
        let mut next = 0;
        for (index, part) in parts.iter().enumerate().rev() {
            let block = self.take()?;
            self.write(block.at() + HEAD, part);
            let is_head = index == 0;
            let kind = if is_head { kind } else { Kind::Further };
            self.store(block, LINK, kind as u64 | next << 32);
            next = block.number();
            if is_head {
                let length = content.len() as u64;
                let sum = u64::from(crc32fast::hash(content));
                self.store(block, SUM, length | sum << 32);
                self.store(block, BORN, step);
            }
        }
        Ok(Block::numbered(next))
    }

    /// Adds a reason to keep this record.
    pub(super) fn refer(&mut self, block: Block) {
        self.references[block.0 as usize] += 1;
    }

    pub(super) fn is_referred_to(&self, block: Block) -> bool {
        self.references[block.0 as usize] > 0
    }

    /// Takes a reason away. Returns the record if there is none left; it dies in this step.
    pub(super) fn release(&mut self, block: Block, step: u64) -> Option<Block> {
        let references = &mut self.references[block.0 as usize];
        *references = references.saturating_sub(1);
        if *references > 0 {
            return None;
        }
        self.store(block, DIED, step);
        Some(block)
    }

    /// The session of this record ends in this step.
    pub(super) fn end(&self, block: Block, step: u64) {
        self.store(block, ENDED, step);
    }

    /// Wipes the blocks of a record that has died in a complete step.
    pub(super) fn free(&mut self, block: Block) {
        for block in self.chain(block) {
            self.wipe(block);
            self.free.push(Reverse(block.0));
        }
    }

    /// Overwrites all blocks with zeros.
    pub(super) fn wipe_all(&mut self) {
        for block in (FIRST..self.count()).map(Block) {
            self.wipe(block);
        }
    }

    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        (self.count() as usize - self.free.len()) * BLOCK
    }

    /// Takes whole pages of free blocks out of use, except for some that are kept for the next changes.
    /// [`Self::free_again`] puts them back.
    pub(super) fn take_free_pages(&mut self) -> Vec<Range<u32>> {
        let mut free: Vec<u32> = std::mem::take(&mut self.free)
            .into_iter()
            .map(|Reverse(number)| number)
            .collect();
        free.sort_unstable();
        let spare = free.split_off(free.len().min(SPARE));
        self.free.extend(free.into_iter().map(Reverse));
        let mut pages = Vec::new();
        for run in spare.chunk_by(|before, after| before + 1 == *after) {
            let (first, end) = (run[0], run[run.len() - 1] + 1);
            let whole = first.next_multiple_of(PER_PAGE)..end - end % PER_PAGE;
            let rest = run.iter().filter(|number| !whole.contains(number));
            self.free.extend(rest.map(|number| Reverse(*number)));
            if !whole.is_empty() {
                pages.push(whole);
            }
        }
        pages
    }

    pub(super) fn free_again(&mut self, pages: Vec<Range<u32>>) {
        self.free.extend(pages.into_iter().flatten().map(Reverse));
    }

    /// Stores a word after everything that was written before, and before everything that follows.
    pub(super) fn store_in_order(&self, at: usize, value: u64) {
        fence(Ordering::SeqCst);
        self.store_at(at, value);
        fence(Ordering::SeqCst);
    }

    pub(super) fn store_at(&self, at: usize, value: u64) {
        #[cfg(test)]
        if !self.takes_effect() {
            return;
        }
        // Ordered behind what was stored before, as the states that a reader may find require.
        self.file.word(at).store(value, Ordering::Release);
    }

    fn store(&self, block: Block, field: usize, value: u64) {
        self.store_at(block.at() + field, value);
    }

    fn load(&self, block: Block, field: usize) -> u64 {
        self.file.word(block.at() + field).load(Ordering::Acquire)
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        #[cfg(test)]
        if !self.takes_effect() {
            return;
        }
        #[cfg(test)]
        if self.writes_left.get() == Some(0) {
            // The last one is torn.
            return self.file.write(at, &bytes[..bytes.len() / 2]);
        }
        self.file.write(at, bytes);
    }

    #[cfg(test)]
    fn takes_effect(&self) -> bool {
        let Some(left) = self.writes_left.get() else {
            return true;
        };
        self.writes_left.set(Some(left.saturating_sub(1)));
        left > 0
    }

    /// Makes a block free. First of all its record stops to count.
    fn wipe(&self, block: Block) {
        self.store_in_order(block.at() + BORN, 0);
        for field in [DIED, ENDED, LINK, SUM] {
            self.store(block, field, 0);
        }
        self.write(block.at() + HEAD, &[0; CONTENT]);
    }

    fn take(&mut self) -> io::Result<Block> {
        if let Some(Reverse(number)) = self.free.pop() {
            return Ok(Block(number));
        }
        let first = self.count();
        self.file.grow()?;
        self.add_free(first);
        let block = self.free.pop().expect("a new piece has blocks");
        Ok(Block(block.0))
    }

    fn add_free(&mut self, first: u32) {
        self.references.resize(self.file.size() / BLOCK, 0);
        self.free.extend((first..self.count()).map(Reverse));
    }

    fn count(&self) -> u32 {
        u32::try_from(self.file.size() / BLOCK).unwrap_or(u32::MAX)
    }

    /// Returns the blocks of a record.
    fn chain(&self, head: Block) -> Vec<Block> {
        let next = |block: &Block| {
            let next = Block::numbered(self.load(*block, LINK) >> 32);
            (FIRST..self.count()).contains(&next.0).then_some(next)
        };
        // Not longer than the file, whatever the links say.
        std::iter::successors(Some(head), next)
            .take(self.count() as usize)
            .collect()
    }

    /// Reads a record, and marks its blocks as used.
    fn content(&self, head: Block, is_used: &mut [bool]) -> Option<Vec<u8>> {
        let sum = self.load(head, SUM);
        let (length, sum) = (sum & u64::from(u32::MAX), sum >> 32);
        let mut left = usize::try_from(length).ok()?;
        let mut content = Vec::new();
        for block in self.chain(head) {
            is_used[block.0 as usize] = true;
            let mut part = vec![0; left.min(CONTENT)];
            self.file.read(block.at() + HEAD, &mut part);
            left -= part.len();
            content.append(&mut part);
        }
        (left == 0 && u64::from(crc32fast::hash(&content)) == sum).then_some(content)
    }
}

impl Kind {
    fn of(link: u64) -> Option<Self> {
        let kinds = [Self::Session, Self::Event, Self::Further];
        let kind = link & u64::from(u32::MAX);
        kinds.into_iter().find(|it| *it as u64 == kind)
    }
}
