//! Pages for secrets: invisible to other processes where the kernel has such memory, else locked.
//!
//! Each secret has a slot of 64 bytes in a chunk of pages. A chunk is, in this order of preference:
//!
//! - memory of `memfd_secret(2)`: absent from the kernel's direct map, so that not even root reads it
//!   through `/proc/PID/mem` or with ptrace. Linux 5.14 with `secretmem.enable=1`, from 6.5 on without
//!   it. A system with such memory does not hibernate.
//! - anonymous memory that is locked (`mlock(2)`) and left out of core dumps.
//! - the same without the lock, if the limit of locked memory is too low. It may be written to swap.
//!
//! Chunks are never unmapped while the arena is in use. Their number is bounded by that of the
//! secrets that exist at once, which the registry limits.
#![expect(unsafe_code, reason = "memory mappings, and references into them")]

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reaper_registry::SecretMemory;
use zeroize::{Zeroize as _, Zeroizing};

/// The size of one slot: that of the largest secret.
const SLOT: usize = 64;
/// The size of a chunk: 512 slots. Small enough for the limit of locked memory of old systems, 64 KiB.
const CHUNK: usize = 32 * 1_024;

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

struct Chunks {
    mapped: Vec<Chunk>,
    /// All bytes of a free slot are zero.
    free: Vec<NonNull<[u8; SLOT]>>,
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
        let mut chunks = Chunks {
            mapped: Vec::new(),
            free: Vec::new(),
            weakest: None,
            reason: String::new(),
        };
        chunks.grow();
        Self(Arc::new(Mutex::new(chunks)))
    }

    /// Returns a slot of zeros. Without memory for a chunk it is in ordinary memory.
    pub(crate) fn take(&self) -> Box<dyn SecretMemory> {
        let mut chunks = self.chunks();
        if chunks.free.is_empty() {
            chunks.grow();
        }
        match chunks.free.pop() {
            Some(at) => Box::new(Slot {
                at,
                arena: self.clone(),
            }),
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
        let mut reasons = Vec::new();
        let chunk = PREFERRED.into_iter().find_map(|protection| {
            let mapped = Chunk::map(protection);
            let failed = |error| reasons.push(format!("{}: {error}", protection.name()));
            Some((protection, mapped.map_err(failed).ok()?))
        });
        let protection = chunk
            .as_ref()
            .map_or(Protection::Unlocked, |(found, _)| *found);
        if self.weakest.is_none_or(|weakest| weakest < protection) {
            self.weakest = Some(protection);
            self.reason = reasons.join("; ");
            self.log_protection(protection);
        }
        let Some((_, chunk)) = chunk else {
            return;
        };
        self.free.extend(chunk.slots());
        self.mapped.push(chunk);
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

/// One mapping.
struct Chunk(NonNull<u8>);

impl Chunk {
    fn map(protection: Protection) -> io::Result<Self> {
        match protection {
            #[cfg(target_os = "linux")]
            Protection::MemfdSecret => {
                let chunk = Self::of_memfd_secret()?;
                // A child process must not inherit it. Such memory is shared, so it cannot be wiped
                // in the child alone.
                chunk.advise(libc::MADV_DONTFORK);
                Ok(chunk)
            }
            Protection::Locked => {
                let chunk = Self::anonymous()?;
                chunk.lock()?;
                Ok(chunk)
            }
            Protection::Unlocked => Self::anonymous(),
        }
    }

    #[cfg(target_os = "linux")]
    fn of_memfd_secret() -> io::Result<Self> {
        use rustix::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

        // SAFETY: takes no pointer (memfd_secret(2)).
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::fs::ftruncate(&file, CHUNK as u64)?;
        // The mapping keeps the memory; the descriptor is closed.
        let mut chunk = Self::mmap(libc::MAP_SHARED, file.as_raw_fd())?;
        // Allocates the pages now, because a later failure would be a signal.
        chunk.bytes_mut().zeroize();
        Ok(chunk)
    }

    fn anonymous() -> io::Result<Self> {
        let chunk = Self::mmap(libc::MAP_PRIVATE | libc::MAP_ANON, -1)?;
        #[cfg(target_os = "linux")]
        {
            chunk.advise(libc::MADV_DONTDUMP);
            chunk.advise(libc::MADV_WIPEONFORK);
        }
        Ok(chunk)
    }

    fn mmap(flags: libc::c_int, fd: libc::c_int) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice (mmap(2)).
        let at = unsafe { libc::mmap(std::ptr::null_mut(), CHUNK, access, flags, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self(at))
    }

    fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is a mapping of this process (mlock(2)).
        match unsafe { libc::mlock(self.0.as_ptr().cast(), CHUNK) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Protects the memory further where the kernel can. A failure takes nothing away.
    #[cfg(target_os = "linux")]
    fn advise(&self, advice: libc::c_int) {
        // SAFETY: the range is a mapping of this process, and none of the values in use here discards
        // its content in this process (madvise(2)).
        if unsafe { libc::madvise(self.0.as_ptr().cast(), CHUNK, advice) } != 0 {
            log::debug!("madvise {advice}: {}", io::Error::last_os_error());
        }
    }

    #[cfg(target_os = "linux")]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has this size and is initialised with zeros. No slot of it exists yet.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), CHUNK) }
    }

    fn slots(&self) -> impl Iterator<Item = NonNull<[u8; SLOT]>> {
        (0..CHUNK / SLOT).map(|index| {
            // SAFETY: the slot lies within the mapping.
            unsafe { self.0.add(index * SLOT) }.cast()
        })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the arena is dropped after its last slot, so there are no references into it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), CHUNK) };
    }
}

/// The only access to 64 bytes of a chunk.
struct Slot {
    at: NonNull<[u8; SLOT]>,
    /// Keeps the chunk mapped.
    arena: SecretArena,
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
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        self.arena.chunks().free.push(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_distinct_and_a_freed_one_is_wiped_and_used_again() {
        let arena = SecretArena::new();
        let mut slots: Vec<_> = (0..2 * CHUNK / SLOT).map(|_| arena.take()).collect();
        for (number, slot) in slots.iter_mut().enumerate() {
            assert_eq!(*slot.bytes(), [0; SLOT]);
            slot.bytes_mut()[..8].copy_from_slice(&number.to_le_bytes());
        }
        for (number, slot) in slots.iter().enumerate() {
            assert_eq!(slot.bytes()[..8], number.to_le_bytes());
        }
        let before = arena.state();
        assert_eq!(before.bytes, 2 * CHUNK);
        drop(slots);
        let slots: Vec<_> = (0..2 * CHUNK / SLOT).map(|_| arena.take()).collect();
        assert!(slots.iter().all(|slot| *slot.bytes() == [0; SLOT]));
        assert_eq!(arena.state(), before);
    }

    #[test]
    fn a_slot_outlives_the_handle_of_its_arena() {
        let arena = SecretArena::new();
        let mut slot = arena.take();
        drop(arena);
        slot.bytes_mut().fill(7);
        assert_eq!(*slot.bytes(), [7; SLOT]);
    }
}
