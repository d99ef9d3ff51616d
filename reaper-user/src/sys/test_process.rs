//! How test processes end in ways that the standard library keeps from us.
#![expect(unsafe_code, reason = "system calls that libc and rustix do not wrap")]

use std::io;
use std::ptr;

use reaper_registry::Pid;

/// Makes the calling thread the tracer of this process, which is killed when the tracer ends.
pub(crate) fn trace(pid: Pid) -> io::Result<()> {
    let no_address = ptr::null_mut::<libc::c_void>();
    // SAFETY: takes numbers alone; the address is ignored (ptrace(2), PTRACE_SEIZE).
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_SEIZE,
            pid.as_raw(),
            no_address,
            libc::PTRACE_O_EXITKILL,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Stops a process that the calling thread traces.
pub(crate) fn stop_traced(pid: Pid) -> io::Result<()> {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: takes numbers alone; address and data are ignored (ptrace(2), PTRACE_INTERRUPT).
    let result = unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid.as_raw(), nothing, nothing) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

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
