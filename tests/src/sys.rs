//! The only unsafe code of the tests: system calls for which rustix has no safe wrapper. One call
//! a function; what the calls mean is left to the caller.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

pub mod seccomp;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::thread::UnshareFlags;

/// `BPF_MAP_CREATE` and `BPF_PROG_LOAD` of linux/bpf.h: both answer with a descriptor.
#[derive(Clone, Copy)]
pub enum BpfCommand {
    MapCreate = 0,
    ProgLoad = 5,
}

/// Moves this thread into new namespaces.
pub fn unshare_namespaces(pid: bool, net: bool, mount: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWPID, pid);
    flags.set(UnshareFlags::NEWNET, net);
    flags.set(UnshareFlags::NEWNS, mount);
    // SAFETY: `unshare` is only unsafe with FILES, which would give this thread a descriptor table
    // of its own; the flags above never hold it.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// `bpf(command, attributes)` for the two commands that make a descriptor.
///
/// `attributes` is the union of bpf(2) as words; pointers in it must outlive the call.
pub fn bpf(command: BpfCommand, attributes: &mut [u64; 16]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads and writes at most the given number of bytes of `attributes`, and
    // both commands only read through the pointers in it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The right to fork: only a process that has a single thread has it, because a child with a lock
/// that some other thread held would wait for ever.
pub struct Forker(());

impl Forker {
    /// To be asked for before anything starts a thread.
    pub fn of_this_process() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            threads => Err(io::Error::other(format!(
                "{threads} threads: too many to fork"
            ))),
        }
    }

    /// Runs `child` in a new process, which ends with code 0 behind it; answers its pid.
    pub fn fork(&self, child: impl FnOnce()) -> io::Result<u32> {
        // SAFETY: `self` says that there is no other thread whose state the child would inherit.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                child();
                leave()
            }
            pid => u32::try_from(pid).map_err(io::Error::other),
        }
    }
}

fn leave() -> ! {
    // SAFETY: takes no pointer; what the parent has to flush is not flushed twice.
    unsafe { libc::_exit(0) }
}

/// Has the kernel collect children that end, instead of keeping them as zombies.
pub fn ignore_children() {
    // SAFETY: no handler is installed, so no code of ours runs in signal context.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Sleeps until a signal ends the process.
pub fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: takes no pointer.
        unsafe { libc::pause() };
    }
}
