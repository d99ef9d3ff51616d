//! Ways for test processes to end that the standard library does not offer.
#![expect(unsafe_code, reason = "system calls that libc and rustix do not wrap")]

use std::io;
use std::ptr;

use reaper_registry::Pid;

use super::check;

/// Makes the calling thread the tracer of this process, which is killed when the tracer ends.
pub(crate) fn trace(pid: Pid) -> io::Result<()> {
    let no_address = ptr::null_mut::<libc::c_void>();
    // SAFETY: takes integers only; the address is ignored (ptrace(2), PTRACE_SEIZE).
    check(unsafe {
        libc::ptrace(
            libc::PTRACE_SEIZE,
            pid.as_raw(),
            no_address,
            libc::PTRACE_O_EXITKILL,
        )
    })
}

/// Stops a process that the calling thread traces.
pub(crate) fn stop_traced(pid: Pid) -> io::Result<()> {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: takes integers only; address and data are ignored (ptrace(2), PTRACE_INTERRUPT).
    check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid.as_raw(), nothing, nothing) })
}

/// Ends only the calling thread: its group lives on, even if this was the main thread.
pub(crate) fn exit_thread() -> ! {
    loop {
        // SAFETY: the call touches no memory. Nothing of this thread is used after it, and what it
        // owns is leaked, not freed while other threads may use it.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Ends the whole group at once, from any thread.
pub(crate) fn exit_group(code: u8) -> ! {
    // SAFETY: the call runs no handler, touches no memory and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}
