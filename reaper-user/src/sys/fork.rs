//! `fork(2)`, for a process that has one thread.
#![expect(unsafe_code, reason = "fork duplicates locks of other threads")]

use std::io;

use rustix::process::Pid;

/// Which of the two processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The parent, with the pid of its child.
    Parent(Pid),
    Child,
}

/// Continues in two processes. Fails if this one has more than one thread, because a lock that
/// another thread holds would never be released in the child.
pub(crate) fn fork() -> io::Result<Forked> {
    // Without /proc it cannot be checked. The callers have started no thread then either.
    if let Ok(threads) = std::fs::read_dir("/proc/self/task")
        && threads.count() != 1
    {
        return Err(io::Error::other("this process has more than one thread"));
    }
    // SAFETY: there is no other thread whose locks or half-written data the child would inherit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        child => Ok(Forked::Parent(
            Pid::from_raw(child).expect("a child has a pid"),
        )),
    }
}

/// Ends a child at once. Nothing of the parent's is flushed or closed.
pub(crate) fn exit_now() -> ! {
    // SAFETY: `_exit` uses no memory of this process.
    unsafe { libc::_exit(0) }
}
