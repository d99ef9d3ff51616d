//! The registry's state in a memory file beside the process: complete after every change, whatever
//! ends the process, and at whichever instruction.
//!
//! The file has blocks of 256 bytes. A record is a chain of them. The head of a record has the numbers of
//! the steps in which it was written (`born`), in which its session ended (`ended`), and in which it
//! became superfluous (`died`); 0 means not yet. The header of the file has the number of the last
//! complete step (`committed`). A step writes new records with the next number, puts that number into
//! the heads of old ones, and then stores it as `committed`: before that store none of it counts, after
//! it all does. What died is wiped only afterwards.
//!
//! A record counts if `born` is not 0 and not above `committed`, and `died` is 0 or above. All else is
//! free. Reading writes nothing; [`MemoryFile::begin`] undoes what an incomplete step has left.
//!
//! Counters are in the header twice, and the parity of `committed` chooses.

mod blocks;
mod header;
mod records;
mod restore;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reaper_registry::{Changes, Event, EventKind, Journal, Session};

use blocks::{BLOCK, Block, Blocks, Kind};
pub(crate) use header::Identity;
pub(crate) use restore::Found;

use crate::sys::shared_file::SharedFile;

/// The journal of the daemon's registry.
pub(crate) struct MemoryFile {
    inner: Mutex<Inner>,
    /// Whether another daemon may use the file now. Held while memory is given back.
    is_lent: Mutex<bool>,
}

struct Inner {
    blocks: Blocks,
    /// The records of the events that are kept, by number.
    events: BTreeMap<u64, Block>,
    next_process: u64,
    /// A change could not be written, so the file is of no use any more.
    failed: bool,
}

impl MemoryFile {
    /// Creates an empty one.
    pub(crate) fn create(identity: &Identity) -> io::Result<Self> {
        let blocks = Blocks::create()?;
        header::write(&blocks.file, identity);
        Ok(Self::with(blocks, BTreeMap::new(), 1))
    }

    fn with(blocks: Blocks, events: BTreeMap<u64, Block>, next_process: u64) -> Self {
        Self {
            inner: Mutex::new(Inner {
                blocks,
                events,
                next_process,
                failed: false,
            }),
            is_lent: Mutex::new(false),
        }
    }

    /// Returns a duplicate of its descriptor.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.inner().blocks.file.as_fd().try_clone_to_owned()
    }

    /// Makes the file ready for changes. Nothing is written before.
    pub(crate) fn begin(&self) {
        let mut inner = self.inner();
        header::begin(&inner.blocks.file);
        inner.blocks.repair();
    }

    /// Overwrites everything with zeros, at the end without a successor.
    pub(crate) fn wipe(&self) {
        let mut inner = self.inner();
        inner.failed = true;
        header::invalidate(&inner.blocks.file);
        inner.blocks.wipe_all();
    }

    /// Returns the size of the file, and how many bytes of it are in use.
    #[cfg(test)]
    pub(crate) fn size(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.blocks.file.size(), inner.blocks.used_bytes())
    }

    /// Gives the memory of free blocks back to the system. Changes go on meanwhile, with other blocks.
    pub(crate) fn give_back(&self) -> io::Result<()> {
        let is_lent = self.is_lent.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_lent {
            return Ok(());
        }
        let (pages, fd) = {
            let mut inner = self.inner();
            let fd = inner.blocks.file.as_fd().try_clone_to_owned()?;
            (inner.blocks.take_free_pages(), fd)
        };
        let block = |number: u32| u64::from(number) * BLOCK as u64;
        let given_back = pages.iter().try_for_each(|page| {
            SharedFile::give_back(&fd, block(page.start), block(page.end - page.start))
        });
        self.inner().blocks.free_again(pages);
        given_back
    }

    /// Sets whether another daemon may use the file. Then nothing is given back, which the other one may have
    /// in use.
    pub(crate) fn lend(&self, is_lent: bool) {
        *self.is_lent.lock().unwrap_or_else(PoisonError::into_inner) = is_lent;
    }

    /// Returns whether every change so far could be written.
    pub(crate) fn is_complete(&self) -> bool {
        !self.inner().failed
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for MemoryFile {
    fn commit(&self, changes: &Changes<'_>) {
        let mut inner = self.inner();
        if inner.failed {
            return;
        }
        if let Err(error) = inner.commit(changes) {
            inner.failed = true;
            header::invalidate(&inner.blocks.file);
            log::error!(
                "the memory file cannot be extended: {error}; sessions will not outlive this process"
            );
        }
    }
}

impl Inner {
    fn commit(&mut self, changes: &Changes<'_>) -> io::Result<()> {
        let Changes {
            stored,
            ended,
            appended,
            dropped,
            counters,
        } = *changes;
        let step = header::committed(&self.blocks.file) + 1;
        for session in stored {
            let block = self
                .blocks
                .put(step, Kind::Session, &records::of_session(session))?;
            session
                .journal_mark()
                .store(block.number(), Ordering::Relaxed);
            self.blocks.refer(block);
            let newest = session.living().map(|it| it.id.0).max().unwrap_or_default();
            self.next_process = self.next_process.max(newest + 1);
        }
        for it in appended {
            let session = session_of(&it.event).map(|session| block_of(session));
            let record = records::of_event(it, session);
            let block = self.blocks.put(step, Kind::Event, &record)?;
            if let Some(block) = session {
                self.blocks.refer(block);
            }
            self.events.insert(it.event.seq, block);
        }
        let mut died = Vec::new();
        for session in ended {
            self.blocks.end(block_of(session), step);
            died.extend(self.blocks.release(block_of(session), step));
        }
        for event in dropped {
            if let Some(block) = self.events.remove(&event.seq) {
                self.blocks.refer(block);
                died.extend(self.blocks.release(block, step));
            }
            if let Some(session) = session_of(event) {
                died.extend(self.blocks.release(block_of(session), step));
            }
        }
        header::commit(&self.blocks, step, counters, self.next_process);
        for block in died {
            self.blocks.free(block);
        }
        Ok(())
    }
}

fn session_of(event: &Event) -> Option<&Arc<Session>> {
    match &event.kind {
        EventKind::Registered(session) | EventKind::Deregistered(session, _) => Some(session),
        _ => None,
    }
}

/// Returns the block of a session that was written or read.
fn block_of(session: &Session) -> Block {
    Block::numbered(session.journal_mark().load(Ordering::Relaxed))
}
