//! Pages for secrets: invisible to other processes where the kernel has such memory, else locked.
//!
//! Each secret has a slot of 64 bytes in a chunk of pages. On Linux all chunks are pieces of one file in
//! memory, so that a later process that gets its descriptor finds each secret in its slot again. The
//! file is, in this order of preference:
//!
//! - memory of `memfd_secret(2)`: absent from the kernel's direct map, so that not even root reads it
//!   through `/proc/PID/mem` or with ptrace. Linux 5.14 with `secretmem.enable=1`, from 6.5 on without
//!   it. A system with such memory does not hibernate.
//! - memory of `memfd_create(2)` that is locked (`mlock(2)`) and left out of core dumps.
//! - the same without the lock, if the limit of locked memory is too low. It may be written to swap.
//!
//! Where there is no such file, chunks are anonymous memory with the same protection, and end with the
//! process.
//!
//! Chunks are never unmapped while the arena is in use. Their number is bounded by that of the
//! secrets that exist at once, which the registry limits. The first slot has the number of chunks, and
//! no secret.
#![expect(unsafe_code, reason = "memory mappings, and references into them")]

mod chunk;

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reaper_registry::SecretMemory;
#[cfg(target_os = "linux")]
use rustix::fd::{AsFd as _, OwnedFd};
use zeroize::{Zeroize as _, Zeroizing};

use chunk::{CHUNK, Chunk};

/// The size of one slot: that of the largest secret.
const SLOT: usize = 64;
const SLOTS: usize = CHUNK / SLOT;

/// How memory is protected, from the strongest to the weakest protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protection {
    #[cfg(target_os = "linux")]
    MemfdSecret,
    Locked,
    Unlocked,
}

#[cfg(target_os = "linux")]
const PREFERRED: [Protection; 3] = [
    Protection::MemfdSecret,
    Protection::Locked,
    Protection::Unlocked,
];
#[cfg(not(target_os = "linux"))]
const PREFERRED: [Protection; 2] = [Protection::Locked, Protection::Unlocked];

impl Protection {
    /// Returns the name in `/v1/health`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_os = "linux")]
            Self::MemfdSecret => "memfd_secret",
            Self::Locked => "locked",
            Self::Unlocked => "unlocked",
        }
    }
}

/// A growing store of slots. Clones share one store.
#[derive(Clone)]
pub(crate) struct SecretArena(Arc<Mutex<Chunks>>);

#[derive(Default)]
struct Chunks {
    #[cfg(target_os = "linux")]
    file: Option<OwnedFd>,
    mapped: Vec<Chunk>,
    /// Every slot, by number.
    slots: Vec<NonNull<[u8; SLOT]>>,
    /// All bytes of a free slot are zero.
    free: Vec<u32>,
    /// The slots that were taken over from an earlier arena.
    #[cfg(target_os = "linux")]
    adopted: std::collections::HashSet<u32>,
    /// Another process may use the file: the one before this one, or the one after it.
    only_reads: bool,
    /// The slots that were given back meanwhile, and are not wiped.
    given_back: Vec<u32>,
    weakest: Option<Protection>,
    /// Why the preferred protection is not used.
    reason: String,
}

// SAFETY: the pointers refer to the chunks, which are owned, and are followed by one slot each.
unsafe impl Send for Chunks {}

/// The protection of all memory that the arena has used, and why it is not a stronger one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArenaState {
    pub(crate) protection: Protection,
    pub(crate) bytes: usize,
    pub(crate) reason: String,
}

impl SecretArena {
    /// Creates an arena with its first chunk, so that its state is known.
    pub(crate) fn new() -> Self {
        let mut chunks = Chunks::default();
        chunks.grow();
        Self(Arc::new(Mutex::new(chunks)))
    }

    /// Maps the file of an earlier arena. No slot of it is free before [`Self::begin`].
    #[cfg(target_os = "linux")]
    pub(crate) fn open(file: OwnedFd) -> io::Result<Self> {
        chunk::check_file(&file)?;
        let mut chunks = Chunks {
            file: Some(file),
            only_reads: true,
            ..Chunks::default()
        };
        chunks.map_next()?;
        let earlier = usize::try_from(chunks.number_of_chunks()).unwrap_or(usize::MAX);
        if !(1..=chunk::MOST_CHUNKS).contains(&earlier) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        while chunks.mapped.len() < earlier {
            chunks.map_next()?;
        }
        Ok(Self(Arc::new(Mutex::new(chunks))))
    }

    /// Returns the memory of a slot of an earlier arena, with the secret that is in it. Each slot can be
    /// taken over once.
    #[cfg(target_os = "linux")]
    pub(crate) fn adopt(&self, number: u32) -> Option<Box<dyn SecretMemory>> {
        let mut chunks = self.chunks();
        let at = *chunks.slots.get(number as usize)?;
        let is_new = number > 0 && chunks.adopted.insert(number);
        is_new.then(|| Slot::boxed(at, number, self))
    }

    /// Continues an earlier arena, whose process uses it no more: wipes and frees all slots that were
    /// not taken over.
    #[cfg(target_os = "linux")]
    pub(crate) fn begin(&self) {
        let mut chunks = self.chunks();
        if !std::mem::take(&mut chunks.only_reads) {
            return;
        }
        let adopted = std::mem::take(&mut chunks.adopted);
        let all = (1..).zip(chunks.slots.iter().skip(1));
        let free = all.filter(|(number, _)| !adopted.contains(number));
        let free: Vec<_> = free
            .map(|(number, at)| {
                // SAFETY: mapped and initialised. No slot with this number exists.
                unsafe { &mut *at.as_ptr() }.zeroize();
                number
            })
            .collect();
        chunks.free.extend(free.iter().rev());
    }

    /// Returns a duplicate of the descriptor of its file, if there is one.
    #[cfg(target_os = "linux")]
    pub(crate) fn descriptor(&self) -> Option<OwnedFd> {
        let chunks = self.chunks();
        chunks.file.as_ref()?.try_clone().ok()
    }

    /// Changes nothing from now on, because another process reads the secrets, and may then use all
    /// slots.
    pub(crate) fn pause(&self) {
        self.chunks().only_reads = true;
    }

    /// Ends a pause: the other process has ended.
    pub(crate) fn end_pause(&self) {
        let mut chunks = self.chunks();
        chunks.only_reads = false;
        for number in std::mem::take(&mut chunks.given_back) {
            let at = chunks.slots[number as usize];
            // SAFETY: mapped and initialised, and its slot was dropped.
            unsafe { &mut *at.as_ptr() }.zeroize();
            chunks.free.push(number);
        }
    }

    /// Returns a slot of zeros. Without memory for a chunk, and during a pause, it is in ordinary memory.
    pub(crate) fn take(&self) -> Box<dyn SecretMemory> {
        let mut chunks = self.chunks();
        if chunks.only_reads {
            return Box::new(Zeroizing::new([0; SLOT]));
        }
        if chunks.free.is_empty() {
            chunks.grow();
        }
        match chunks.free.pop() {
            Some(number) => Slot::boxed(chunks.slots[number as usize], number, self),
            None => Box::new(Zeroizing::new([0; SLOT])),
        }
    }

    pub(crate) fn state(&self) -> ArenaState {
        let chunks = self.chunks();
        ArenaState {
            protection: chunks.weakest.unwrap_or(Protection::Unlocked),
            bytes: chunks.mapped.len() * CHUNK,
            reason: chunks.reason.clone(),
        }
    }

    fn outlives_process(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.chunks().file.is_some();
        #[cfg(not(target_os = "linux"))]
        false
    }

    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SecretArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretArena").field(&self.state()).finish()
    }
}

impl Chunks {
    /// Adds a chunk with the strongest protection that works.
    fn grow(&mut self) {
        #[cfg(target_os = "linux")]
        if self.file.is_some() {
            match self.map_next() {
                Ok(()) => self.free_last_chunk(),
                Err(error) => log::warn!("there is no memory for more secret keys: {error}"),
            }
            return;
        }
        let mut reasons = Vec::new();
        let chunk = PREFERRED.into_iter().find_map(|protection| {
            let mapped = self.map(protection);
            let failed = |error| reasons.push(format!("{}: {error}", protection.name()));
            Some((protection, mapped.map_err(failed).ok()?))
        });
        let protection = chunk
            .as_ref()
            .map_or(Protection::Unlocked, |(found, _)| *found);
        self.note(protection, reasons.join("; "));
        if let Some((_, chunk)) = chunk {
            self.add(chunk);
            self.free_last_chunk();
        }
    }

    /// Maps the next chunk of the first file that can be created, or of anonymous memory.
    #[cfg(target_os = "linux")]
    fn map(&mut self, protection: Protection) -> io::Result<Chunk> {
        if self.mapped.is_empty() {
            let mapped = chunk::create_file(protection).and_then(|file| {
                let chunk = Chunk::of_file(file.as_fd(), 0, protection)?;
                Ok((file, chunk))
            });
            if let Ok((file, chunk)) = mapped {
                self.file = Some(file);
                return Ok(chunk);
            }
            if protection == Protection::MemfdSecret {
                return mapped.map(|(_, chunk)| chunk);
            }
        }
        match protection {
            Protection::MemfdSecret => Err(io::ErrorKind::Unsupported.into()),
            Protection::Locked | Protection::Unlocked => Chunk::anonymous(protection),
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, reason = "the same signature everywhere")]
    fn map(&mut self, protection: Protection) -> io::Result<Chunk> {
        Chunk::anonymous(protection)
    }

    /// Maps the next chunk of the file.
    #[cfg(target_os = "linux")]
    fn map_next(&mut self) -> io::Result<()> {
        let index = self.mapped.len();
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?.as_fd();
        if index == chunk::MOST_CHUNKS {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let kinds: &[_] = if is_ordinary(file) {
            &[Protection::Locked, Protection::Unlocked]
        } else {
            &[Protection::MemfdSecret]
        };
        let mut last = Err(io::ErrorKind::Unsupported.into());
        for protection in kinds {
            last = Chunk::of_file(file, index, *protection);
            if last.is_ok() {
                self.note(*protection, String::new());
                break;
            }
        }
        self.add(last?);
        Ok(())
    }

    fn add(&mut self, chunk: Chunk) {
        self.slots.extend(chunk.slots());
        self.mapped.push(chunk);
    }

    fn free_last_chunk(&mut self) {
        let chunks = self.mapped.len() as u64;
        // The first slot is not for secrets.
        let first = ((self.mapped.len() - 1) * SLOTS).max(1);
        let numbers = first..self.slots.len();
        self.free
            .extend(numbers.rev().filter_map(|it| u32::try_from(it).ok()));
        // SAFETY: mapped, of this size, and no slot that is ever taken.
        unsafe { self.slots[0].cast::<u64>().write(chunks) };
    }

    #[cfg(target_os = "linux")]
    fn number_of_chunks(&self) -> u64 {
        // SAFETY: as in `free_last_chunk`.
        unsafe { self.slots[0].cast::<u64>().read() }
    }

    fn note(&mut self, protection: Protection, reason: String) {
        if self.weakest.is_none_or(|weakest| weakest < protection) {
            self.weakest = Some(protection);
            self.reason = reason;
            self.log_protection(protection);
        }
    }

    fn log_protection(&self, protection: Protection) {
        let colon = if self.reason.is_empty() { "" } else { ": " };
        let (name, reason) = (protection.name(), &self.reason);
        if protection == Protection::Unlocked {
            log::warn!(
                "memory of secret keys is not locked and may be written to swap{colon}{reason}; raise \
                 the limit of locked memory (ulimit -l; LimitMEMLOCK= under systemd)"
            );
        } else {
            log::info!("memory of secret keys: {name}{colon}{reason}");
        }
    }
}

/// Returns whether this is a file of `memfd_create(2)`, which alone can have seals (fcntl(2)).
#[cfg(target_os = "linux")]
fn is_ordinary(file: rustix::fd::BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_get_seals(file).is_ok()
}

/// The only access to 64 bytes of a chunk.
struct Slot {
    at: NonNull<[u8; SLOT]>,
    number: u32,
    /// Keeps the chunk mapped.
    arena: SecretArena,
}

impl Slot {
    fn boxed(at: NonNull<[u8; SLOT]>, number: u32, arena: &SecretArena) -> Box<dyn SecretMemory> {
        let arena = arena.clone();
        Box::new(Self { at, number, arena })
    }
}

// SAFETY: a slot is the only access to its bytes, like a box.
unsafe impl Send for Slot {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Slot {}

impl SecretMemory for Slot {
    fn bytes(&self) -> &[u8; SLOT] {
        // SAFETY: mapped, initialised with zeros, and taken from the free list by this slot alone.
        unsafe { self.at.as_ref() }
    }

    fn bytes_mut(&mut self) -> &mut [u8; SLOT] {
        // SAFETY: as above.
        unsafe { self.at.as_mut() }
    }

    fn slot(&self) -> Option<u32> {
        self.arena.outlives_process().then_some(self.number)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let arena = self.arena.clone();
        let mut chunks = arena.chunks();
        // A start that is given up leaves the secrets to the process that has them, as an end does that
        // has a successor.
        if chunks.only_reads {
            chunks.given_back.push(self.number);
        } else {
            self.bytes_mut().zeroize();
            chunks.free.push(self.number);
        }
    }
}

#[cfg(test)]
mod tests;
