//! Checks through its pidfd whether a process has memory, on kernels that show this. Needs no right to the
//! process.
//!
//! To tell how a process would be dumped, `pidfd_info` in [`fs/pidfs.c`] of Linux 6.16 to 6.18 looks whether
//! the task that has the pid now has memory (`task->mm`, under the lock of the task). Older kernels do not
//! tell. Linux 7.3 tells it of a zombie as well, so there it says nothing about memory. For this reason
//! it is tried out with a zombie before it is used.
//!
//! [`fs/pidfs.c`]: https://elixir.bootlin.com/linux/v6.16/source/fs/pidfs.c

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::retry_on_intr;
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, waitid};

use super::fork::{Forked, exit_now, fork};
use super::pidfd_info::would_be_dumped;

/// Whether this kernel shows it. False until [`try_out`] has found out.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Returns whether the main thread of this process is known to have memory, which it gives up during
/// its exit. No reference to its memory is kept. `false` proves nothing: see above, and a process that
/// was dumped shows nothing either.
pub(super) fn has_memory(pidfd: BorrowedFd<'_>) -> bool {
    IS_SHOWN.load(Ordering::Relaxed) && would_be_dumped(pidfd)
}

/// Finds out whether this kernel shows it, with this process and with a child that has exited. This process
/// must have one thread, and must not ignore `SIGCHLD`. Children inherit the result.
pub(crate) fn try_out() -> io::Result<()> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let child = match fork()? {
        Forked::Parent(child) => child,
        Forked::Child => exit_now(),
    };
    let zombie = pidfd_open(child, PidfdFlags::empty());
    let wait = |options| retry_on_intr(|| waitid(WaitId::Pid(child), options));
    wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    let is_shown = zombie.map(|zombie| distinguishes(own.as_fd(), zombie.as_fd()));
    wait(WaitIdOptions::EXITED)?;
    IS_SHOWN.store(is_shown?, Ordering::Relaxed);
    Ok(())
}

/// Returns whether the kernel shows something else of a live process than of a zombie.
fn distinguishes(live: BorrowedFd<'_>, zombie: BorrowedFd<'_>) -> bool {
    would_be_dumped(live) && !would_be_dumped(zombie)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use reaper_registry::Pid;
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::sys::memory;

    #[test]
    fn a_kernel_that_shows_the_same_of_both_does_not_show_memory() {
        let cat = Command::new("cat").stdin(Stdio::piped()).spawn();
        let mut process = cat.expect("cat is installed");
        let pid = rustix::process::Pid::from_child(&process);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        assert!(!distinguishes(own.as_fd(), pidfd.as_fd()), "it is alive");
        // No wait: it stays a zombie.
        drop(process.stdin.take());
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        let kernel = procfs::KernelVersion::current().unwrap();
        // Measured on 6.18 and 7.3; between them it is not known.
        let is_shown = distinguishes(own.as_fd(), pidfd.as_fd());
        match (kernel.major, kernel.minor) {
            (6, 16..=18) => assert!(is_shown),
            (7, 3..) => assert!(!is_shown),
            _ => {}
        }
        let has_memory_here = memory::has_memory(Pid::new(process.id()).unwrap());
        assert!(matches!(has_memory_here, Ok(false)), "{has_memory_here:?}");
        process.wait().unwrap();
        assert!(
            !would_be_dumped(pidfd.as_fd()),
            "nor is it shown of a reaped one"
        );
    }
}
