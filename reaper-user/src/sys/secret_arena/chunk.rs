//! The mappings: which kind of memory there is, and pieces of it.

use std::io;
use std::ptr::NonNull;

#[cfg(target_os = "linux")]
use rustix::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
#[cfg(target_os = "linux")]
use rustix::fs::{MemfdFlags, SealFlags};

use super::{Protection, SLOT};

/// The size of a chunk: 512 slots. Small enough for the limit of locked memory of old systems, 64 KiB.
pub(super) const CHUNK: usize = 32 * 1_024;
/// The most chunks of a file: two million secrets. Memory of `memfd_secret(2)` gets its size once, and
/// takes memory only where it is mapped and used.
#[cfg(target_os = "linux")]
pub(super) const MOST_CHUNKS: usize = 4_096;
#[cfg(target_os = "linux")]
const SIZE: u64 = (MOST_CHUNKS * CHUNK) as u64;
/// A file that becomes smaller is a signal for those who have mapped it.
#[cfg(target_os = "linux")]
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Creates the file whose pieces are the chunks, of memory with this protection.
#[cfg(target_os = "linux")]
pub(super) fn create_file(protection: Protection) -> io::Result<OwnedFd> {
    let file = match protection {
        Protection::MemfdSecret => {
            // SAFETY: takes no pointer (memfd_secret(2)).
            let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = i32::try_from(fd).map_err(io::Error::other)?;
            // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
            unsafe { OwnedFd::from_raw_fd(fd) }
        }
        Protection::Locked | Protection::Unlocked => {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            rustix::fs::memfd_create("reaperd-secrets", flags)?
        }
    };
    rustix::fs::ftruncate(&file, SIZE)?;
    if protection != Protection::MemfdSecret {
        // The size of secret memory cannot be changed again anyway.
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
    }
    Ok(file)
}

/// Fails unless the file has the size that no holder of a descriptor can change.
#[cfg(target_os = "linux")]
pub(super) fn check_file(file: impl AsFd) -> io::Result<()> {
    // Secret memory has no seals, and its size is fixed.
    let is_fixed = rustix::fs::fcntl_get_seals(&file).map_or(true, |seals| seals.contains(SEALS));
    let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
    if size == SIZE && is_fixed {
        return Ok(());
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// One mapping.
pub(super) struct Chunk(NonNull<u8>);

impl Chunk {
    /// Maps a chunk of this file, without a change of its content.
    #[cfg(target_os = "linux")]
    pub(super) fn of_file(
        file: BorrowedFd<'_>,
        index: usize,
        protection: Protection,
    ) -> io::Result<Self> {
        let offset = i64::try_from(index * CHUNK).map_err(io::Error::other)?;
        let chunk = Self::mmap(libc::MAP_SHARED, file.as_raw_fd(), offset)?;
        // A child process must not inherit it. Such memory is shared, so it cannot be wiped in the child
        // alone.
        chunk.advise(libc::MADV_DONTFORK);
        if protection != Protection::MemfdSecret {
            chunk.advise(libc::MADV_DONTDUMP);
        }
        if protection == Protection::Locked {
            chunk.lock()?;
        }
        chunk.allocate();
        Ok(chunk)
    }

    pub(super) fn anonymous(protection: Protection) -> io::Result<Self> {
        let chunk = Self::mmap(libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0)?;
        #[cfg(target_os = "linux")]
        {
            chunk.advise(libc::MADV_DONTDUMP);
            chunk.advise(libc::MADV_WIPEONFORK);
        }
        if protection == Protection::Locked {
            chunk.lock()?;
        }
        Ok(chunk)
    }

    fn mmap(flags: libc::c_int, fd: libc::c_int, offset: i64) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice (mmap(2)).
        let at = unsafe { libc::mmap(std::ptr::null_mut(), CHUNK, access, flags, fd, offset) };
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

    /// Allocates the pages now, because a later failure would be a signal.
    #[cfg(target_os = "linux")]
    fn allocate(&self) {
        for slot in self.slots() {
            // SAFETY: within the mapping, and of the size of a byte.
            unsafe { slot.cast::<u8>().read_volatile() };
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = NonNull<[u8; SLOT]>> {
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
