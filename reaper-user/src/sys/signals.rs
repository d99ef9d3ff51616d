//! Signals that are received from a descriptor instead of by a handler: `signalfd(2)`.
#![expect(unsafe_code, reason = "rustix has neither signal masks nor signalfd")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;

use rustix::process::Signal;

/// Signals that are blocked, and what was blocked before.
pub(crate) struct Blocked {
    these: libc::sigset_t,
    before: libc::sigset_t,
}

impl Blocked {
    /// Blocks these signals in the calling thread, and in those that it starts.
    pub(crate) fn these(signals: &[Signal]) -> io::Result<Self> {
        let these = set_of(signals);
        let mut before = set_of(&[]);
        // SAFETY: reads the first set and writes the second; both are initialised locals.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const these, &raw mut before) };
        match error {
            0 => Ok(Self { these, before }),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Restores what was blocked before.
    pub(crate) fn restore(&self) -> io::Result<()> {
        let no_result = ptr::null_mut();
        // SAFETY: reads the set, which the kernel has filled, and writes nothing.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, no_result) };
        match error {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Opens a descriptor that is readable while one of these signals is pending.
    pub(crate) fn descriptor(&self) -> io::Result<Pending> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: reads the set, which is initialised.
        let fd = unsafe { libc::signalfd(-1, &raw const self.these, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
        Ok(Pending(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

/// Lets these signals through to the calling thread, and with that to the process.
pub(crate) fn unblock(signals: &[Signal]) -> io::Result<()> {
    let (these, no_result) = (set_of(signals), ptr::null_mut());
    // SAFETY: reads the set, which is an initialised local, and writes nothing.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const these, no_result) };
    match error {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The pending ones of some blocked signals.
pub(crate) struct Pending(OwnedFd);

impl Pending {
    /// Takes the next pending signal; `None`: there is none. Does not wait.
    pub(crate) fn take(&self) -> io::Result<Option<Signal>> {
        let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut record) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // The first field is the number of the signal.
        let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
        Ok(i32::try_from(number).ok().and_then(Signal::from_named_raw))
    }
}

impl AsFd for Pending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: initialises the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: changes the set, which has just been initialised.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal.as_raw()) };
    }
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}
