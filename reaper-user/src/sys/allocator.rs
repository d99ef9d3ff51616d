//! What the allocator keeps.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "malloc_trim has no safe wrapper")
)]

/// Gives freed memory back to the system where the allocator keeps it for later (glibc). For after a
/// piece of work that needs much more than the daemon ever does again.
pub(crate) fn give_back_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: callable at any time from any thread; it touches only memory that nobody owns
    // (malloc_trim(3)).
    let _any = unsafe { libc::malloc_trim(0) };
}
