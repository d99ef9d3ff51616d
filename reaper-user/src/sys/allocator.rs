//! Returns unused memory of the allocator to the system.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "malloc_trim has no safe wrapper")
)]

/// Returns freed memory to the system that the allocator keeps for later use (glibc). Called after
/// work that needs much more memory than the daemon needs later.
pub(crate) fn give_back_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: callable at any time from any thread; it touches only free memory (malloc_trim(3)).
    let _any = unsafe { libc::malloc_trim(0) };
}
