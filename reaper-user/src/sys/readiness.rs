//! Waits for a descriptor in the async runtime.
#![expect(
    unsafe_code,
    reason = "the runtime's registration call leaves I/O safety to its caller"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime, until the returned value is dropped.
pub(crate) fn readiness_of(
    descriptor: OwnedFd,
    interest: Interest,
) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the registration owns the descriptor, so it stays open and the same until the
    // registration is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    Ok(registered?)
}
