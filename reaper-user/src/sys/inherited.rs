//! Descriptors that this process got from the one that started it.
#![expect(unsafe_code, reason = "a number becomes a descriptor")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the `count` descriptors from `first` on, once in the life of this process; later calls return
/// nothing. Closed ones are left out. Later programs do not inherit the others.
///
/// Must be called before this process opens a descriptor itself, which could have one of these numbers.
pub(crate) fn take_from(first: RawFd, count: RawFd) -> Vec<(usize, OwnedFd)> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let numbers = first..first.saturating_add(count);
    (0..)
        .zip(numbers)
        .filter_map(|(at, number)| Some((at, take(number).ok()?)))
        .collect()
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    {
        // SAFETY: borrowed for one call, which fails if the number is no open descriptor.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    }
    // SAFETY: it is open. It came with this process, and `TAKEN` makes this its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
