//! Reads a process's data through its pidfd: `PIDFD_GET_INFO` and signal 0.
#![expect(
    unsafe_code,
    reason = "an ioctl that no crate wraps yet, and a signal number that rustix does not have"
)]

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;

/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)` with the structure's second size (6.16). Older
/// kernels accept a larger size than their own.
const PIDFD_GET_INFO: libc::c_ulong = 0xc048_ff0b;
/// Requests, and confirms, the exit status (6.15+, and only after the process is reaped).
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// Requests how the process was dumped, or would be (6.16+).
#[cfg(feature = "cli")]
const PIDFD_INFO_COREDUMP: u64 = 1 << 4;
/// It was dumped. The field is about that dump then, and not about its memory of now.
#[cfg(feature = "cli")]
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

/// Returns whether the kernel tells how this process would be dumped (6.16+), without having dumped it.
#[cfg(feature = "cli")]
pub(super) fn would_be_dumped(pidfd: BorrowedFd<'_>) -> bool {
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
