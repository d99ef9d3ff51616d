//! A pid namespace held open: the number that one of its processes has in ours.
#![expect(unsafe_code, reason = "an ioctl that no crate wraps yet")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::linux::fs::MetadataExt as _;

use reaper_registry::Pid;
use rustix::ioctl::opcode;

/// `NS_GET_PID_FROM_PIDNS` of the kernel's `include/uapi/linux/nsfs.h`, which takes a number of the
/// namespace and returns the caller's number for it (6.11+, commit ca567df74a28).
const NS_GET_PID_FROM_PIDNS: rustix::ioctl::Opcode = opcode::read::<libc::c_int>(0xb7, 6);

/// A pid namespace. While it is held, its inode number is no other namespace's.
#[derive(Debug)]
pub(crate) struct PidNamespace(File);

impl PidNamespace {
    /// The one in which the process of this number of ours lives. Needs `CAP_SYS_PTRACE` over it, or
    /// its user (`PTRACE_MODE_READ_FSCREDS` of ptrace(2)).
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        File::open(path_of(pid)).map(Self)
    }

    /// The inode number, which names a namespace as long as it exists.
    pub(crate) fn inode(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.st_ino())
    }

    /// The number in our namespace of the task that has this one there. `ESRCH`: no task has it;
    /// `ENOTTY` or `EINVAL`: the kernel is older than 6.11.
    pub(crate) fn pid_here(&self, number: Pid) -> io::Result<Pid> {
        // SAFETY: the descriptor is open for the length of the call, and the request takes its
        // argument by value: no memory of ours is read or written.
        let answer = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::c_ulong::from(NS_GET_PID_FROM_PIDNS),
                number.as_raw(),
            )
        };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Pid::try_from(answer).map_err(io::Error::other)
    }
}

/// The inode number of the pid namespace in which this process lives.
pub(crate) fn pid_namespace_inode(pid: Pid) -> io::Result<u64> {
    Ok(std::fs::metadata(path_of(pid))?.st_ino())
}

fn path_of(pid: Pid) -> String {
    format!("/proc/{pid}/ns/pid")
}
