//! An open pid namespace, to translate a pid in it to one in ours.
#![expect(unsafe_code, reason = "an ioctl that no crate wraps yet")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::linux::fs::MetadataExt as _;

use reaper_registry::Pid;
use rustix::ioctl::opcode;

use super::proc_file::{ProcFile, open};

/// `NS_GET_PID_FROM_PIDNS` of the kernel's `include/uapi/linux/nsfs.h`. It takes a pid in the
/// namespace and returns the pid in the caller's (6.11+, commit ca567df74a28).
const NS_GET_PID_FROM_PIDNS: rustix::ioctl::Opcode = opcode::read::<libc::c_int>(0xb7, 6);

/// A pid namespace. While it is open, no other namespace gets its inode number.
#[derive(Debug)]
pub(crate) struct PidNamespace(File);

impl PidNamespace {
    /// Opens the pid namespace of the process with this pid. Needs `CAP_SYS_PTRACE` over the
    /// process, or its user (`PTRACE_MODE_READ_FSCREDS` of ptrace(2)).
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        open(ProcFile::PidNamespace, pid).map(|fd| Self(fd.into()))
    }

    /// Returns the inode number, which identifies a namespace as long as it exists.
    pub(crate) fn inode(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.st_ino())
    }

    /// Returns the pid in our namespace of the task that has this pid there. `ESRCH`: no task has
    /// it; `ENOTTY` or `EINVAL`: the kernel is older than 6.11.
    pub(crate) fn pid_here(&self, pid_there: Pid) -> io::Result<Pid> {
        // SAFETY: the descriptor is open for the length of the call, and the request takes its
        // argument by value: no memory of ours is read or written.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::c_ulong::from(NS_GET_PID_FROM_PIDNS),
                pid_there.as_raw(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Pid::try_from(result).map_err(io::Error::other)
    }
}

/// Returns the inode number of the pid namespace of this process.
pub(crate) fn pid_namespace_inode(pid: Pid) -> io::Result<u64> {
    PidNamespace::of(pid)?.inode()
}
