//! How victims end in ways that the standard library keeps from us.
#![expect(unsafe_code, reason = "system calls that libc and rustix do not wrap")]

/// Ends the calling thread alone: its group lives on, even if this was the leader.
pub(crate) fn exit_thread() -> ! {
    loop {
        // SAFETY: the call touches no memory. Nothing of this thread is used after it, and what it
        // owns is leaked, not freed under somebody's feet.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Ends the whole group at once, from whichever thread.
pub(crate) fn exit_group(code: u8) -> ! {
    // SAFETY: the call runs no handler, touches no memory and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}
