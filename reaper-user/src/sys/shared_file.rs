//! A memory file (`memfd_create(2)`) that is mapped in pieces as it grows, and outlives the process if
//! another one has its descriptor.
//!
//! It cannot shrink, so no access can be behind its end. Its pages are allocated when it grows, because
//! a page that cannot be allocated later would be a signal.
#![expect(unsafe_code, reason = "memory mappings, and references into them")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

/// The size of a piece. No access crosses the border of two.
const PIECE: usize = 1 << 20;
const WORD: usize = size_of::<AtomicU64>();

/// The file and its mappings.
pub(crate) struct SharedFile {
    fd: OwnedFd,
    pieces: Vec<NonNull<u8>>,
}

// SAFETY: the pointers refer to mappings that this value owns.
unsafe impl Send for SharedFile {}
// SAFETY: shared references give access to atomics, and to bytes by copying them; see `read`.
unsafe impl Sync for SharedFile {}

impl SharedFile {
    /// Creates a file with one piece of zeros.
    pub(crate) fn create(name: &str) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK)?;
        let mut file = Self {
            fd,
            pieces: Vec::new(),
        };
        file.grow()?;
        Ok(file)
    }

    /// Maps a file that [`Self::create`] has created, in this process or another.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Self> {
        let size = usize::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        let is_sealed = rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK);
        if !is_sealed || size == 0 || !size.is_multiple_of(PIECE) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut file = Self {
            fd,
            pieces: Vec::new(),
        };
        for _ in 0..size / PIECE {
            file.map_next()?;
        }
        Ok(file)
    }

    /// Adds a piece of zeros.
    pub(crate) fn grow(&mut self) -> io::Result<()> {
        let size = self.size() as u64;
        rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), size, PIECE as u64)?;
        self.map_next()
    }

    /// Gives pages of zeros back to the system. They are still zeros.
    pub(crate) fn give_back(fd: impl AsFd, at: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(fd, flags, at, length)?)
    }

    fn map_next(&mut self) -> io::Result<()> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let offset = i64::try_from(self.size()).map_err(io::Error::other)?;
        let (no_hint, fd) = (std::ptr::null_mut(), self.fd.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice (mmap(2)).
        let at = unsafe { libc::mmap(no_hint, PIECE, access, libc::MAP_SHARED, fd, offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        self.pieces.push(at);
        Ok(())
    }

    /// Returns the size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.pieces.len() * PIECE
    }

    /// Returns the word at this offset, which is a multiple of its size.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(WORD), "a word is aligned");
        let place = self.place(at, WORD).cast();
        // SAFETY: within a mapping that lives as long as this value, aligned, and initialised. Every
        // access to it by this program is atomic, or made before it is a word.
        unsafe { place.as_ref() }
    }

    /// Copies these bytes to this offset.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        let place = self.place(at, bytes.len());
        // SAFETY: the range is within a mapping, and `bytes` is not part of it. The owner writes from one
        // thread at a time.
        unsafe { place.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// Copies the bytes at this offset.
    pub(crate) fn read(&self, at: usize, bytes: &mut [u8]) {
        let place = self.place(at, bytes.len());
        // SAFETY: as for `write`.
        unsafe { place.copy_to_nonoverlapping(NonNull::from(&mut *bytes).cast(), bytes.len()) };
    }

    fn place(&self, at: usize, length: usize) -> NonNull<u8> {
        let (piece, offset) = (at / PIECE, at % PIECE);
        assert!(offset + length <= PIECE, "no access crosses a border");
        // SAFETY: the offset is within the piece.
        unsafe { self.pieces[piece].add(offset) }
    }
}

impl AsFd for SharedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        for piece in &self.pieces {
            // SAFETY: a mapping of this value, to which there are no references any more.
            unsafe { libc::munmap(piece.as_ptr().cast(), PIECE) };
        }
    }
}
