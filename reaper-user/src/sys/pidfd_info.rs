//! Reads a process's data through its pidfd: `PIDFD_GET_INFO` and signal 0.
#![expect(
    unsafe_code,
    reason = "an ioctl that no crate wraps yet, and a signal number that rustix does not have"
)]

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::sync::LazyLock;

use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)` with the structure's second size (6.16). Older
/// kernels accept a larger size than their own.
const PIDFD_GET_INFO: libc::c_ulong = 0xc048_ff0b;
/// Requests, and confirms, the exit status (6.15+, and only after the process is reaped).
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// Requests how the process was dumped, or would be (6.16+).
const PIDFD_INFO_COREDUMP: u64 = 1 << 4;
/// It was dumped. The field is about that dump then, and not about its memory of now.
const PIDFD_COREDUMPED: u32 = 1 << 0;

/// Request, and confirm, the pids and the users (6.13+, and only until the process is reaped).
#[cfg(feature = "cli")]
const PIDFD_INFO_PID: u64 = 1 << 0;
#[cfg(feature = "cli")]
const PIDFD_INFO_CREDS: u64 = 1 << 1;

/// The second version of `struct pidfd_info` of the kernel's `include/uapi/linux/pidfd.h`. The
/// kernel copies no more than the size in the request number.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    /// The other seven user and group ids.
    others: [u32; 7],
    exit_code: i32,
    coredump_mask: u32,
    _coredump_signal: u32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 72);

/// Whether this kernel shows how a process would be dumped, which depends on its memory. Tried on
/// this process, which has some.
static SHOWS_MEMORY: LazyLock<bool> = LazyLock::new(|| {
    let own = pidfd_open(getpid(), PidfdFlags::empty());
    own.is_ok_and(|own| would_be_dumped(own.as_fd()))
});

/// Returns the wait status; `None` on older kernels and until the process is reaped.
pub(super) fn wait_status(pidfd: BorrowedFd<'_>) -> Option<u32> {
    info(pidfd, PIDFD_INFO_EXIT).map(|info| info.exit_code.cast_unsigned())
}

/// Returns the thread group and the real user; `None` on older kernels and once the process is
/// reaped.
#[cfg(feature = "cli")]
pub(crate) fn tgid_and_ruid(pidfd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    info(pidfd, PIDFD_INFO_PID | PIDFD_INFO_CREDS).map(|info| (info.tgid, info.ruid))
}

/// Returns whether the main thread of this process is known to have memory, which it gives up during
/// its exit. Needs no right to the process, and no reference to its memory is kept.
///
/// To tell how a process would be dumped, `pidfd_info` in [`fs/pidfs.c`] looks whether the task that
/// has the pid now has memory (`task->mm`, under the lock of the task). `false` proves nothing: older
/// kernels do not tell, nor does this one once the process was dumped.
///
/// [`fs/pidfs.c`]: https://elixir.bootlin.com/linux/v6.16/source/fs/pidfs.c
pub(super) fn has_memory(pidfd: BorrowedFd<'_>) -> bool {
    *SHOWS_MEMORY && would_be_dumped(pidfd)
}

fn would_be_dumped(pidfd: BorrowedFd<'_>) -> bool {
    info(pidfd, PIDFD_INFO_COREDUMP)
        .is_some_and(|info| info.coredump_mask != 0 && info.coredump_mask & PIDFD_COREDUMPED == 0)
}

/// Sends signal 0, which only checks. `ESRCH`: the process has been reaped. `EPERM`: it exists and
/// is another user's.
pub(super) fn signal_zero(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let no_details = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the length of the call, and no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            0,
            no_details,
            0,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

/// Returns the requested fields; `None` unless the kernel gave all of them.
fn info(pidfd: BorrowedFd<'_>, wanted: u64) -> Option<PidfdInfo> {
    let mut info = PidfdInfo {
        mask: wanted,
        ..PidfdInfo::default()
    };
    // SAFETY: the descriptor is open for the length of the call, and the kernel writes at most the
    // 72 bytes of the request's size into a structure of that size.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (result == 0 && info.mask & wanted == wanted).then_some(info)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use reaper_registry::Pid;
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::sys::memory;

    fn cat() -> Child {
        let cat = Command::new("cat").stdin(Stdio::piped()).spawn();
        cat.expect("cat is installed")
    }

    #[test]
    fn a_live_process_has_memory_and_a_zombie_has_none() {
        let mut process = cat();
        let pid = rustix::process::Pid::from_child(&process);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert_eq!(has_memory(pidfd.as_fd()), *SHOWS_MEMORY);
        // No wait: it stays a zombie.
        drop(process.stdin.take());
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        assert!(!has_memory(pidfd.as_fd()));
        let has_memory_here = memory::has_memory(Pid::new(process.id()).unwrap());
        assert!(matches!(has_memory_here, Ok(false)), "{has_memory_here:?}");
        process.wait().unwrap();
        assert!(!has_memory(pidfd.as_fd()), "nor has a reaped one");
    }

    #[test]
    fn this_kernel_shows_memory_from_6_16_on() {
        let first = procfs::KernelVersion::new(6, 16, 0);
        let expected = procfs::KernelVersion::current().is_ok_and(|version| version >= first);
        assert!(*SHOWS_MEMORY || !expected);
    }
}
