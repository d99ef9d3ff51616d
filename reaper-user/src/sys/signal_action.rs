//! What a signal does to this process: `sigaction(2)`, on every system.
#![expect(unsafe_code, reason = "rustix has no signal actions")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use rustix::process::Signal;

/// Ignores this signal.
pub(crate) fn ignore(signal: Signal) -> io::Result<()> {
    // SAFETY: installs no handler.
    let former = unsafe { libc::signal(signal.as_raw(), libc::SIG_IGN) };
    if former == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives this signal its default effect again.
pub(crate) fn restore_default(signal: Signal) -> io::Result<()> {
    // SAFETY: installs no handler.
    let former = unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) };
    if former == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Returns whether this process ignores the signal. Uses nothing that needs to be initialised.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: changes nothing; the kernel fills one local structure.
    let result = unsafe { libc::sigaction(signal.as_raw(), ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all of its fields are integers and pointers, for which zero is a value.
    let action = unsafe { action.assume_init() };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}
