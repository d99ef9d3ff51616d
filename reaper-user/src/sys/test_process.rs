//! Ways for test processes to end that the standard library does not offer.
#![expect(unsafe_code, reason = "system calls that libc and rustix do not wrap")]

use std::io;
use std::ptr;

use reaper_registry::Pid;

use super::check;

/// Makes the calling thread the tracer of this process, which is killed when the tracer ends.
pub(crate) fn trace(pid: Pid) -> io::Result<()> {
    let no_address = ptr::null_mut::<libc::c_void>();
    // SAFETY: takes integers only; the address is ignored (ptrace(2), PTRACE_SEIZE).
    check(unsafe {
        libc::ptrace(
            libc::PTRACE_SEIZE,
            pid.as_raw(),
            no_address,
            libc::PTRACE_O_EXITKILL,
        )
    })
}

/// Stops a process that the calling thread traces.
pub(crate) fn stop_traced(pid: Pid) -> io::Result<()> {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: takes integers only; address and data are ignored (ptrace(2), PTRACE_INTERRUPT).
    check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid.as_raw(), nothing, nothing) })
}

/// Ends only the calling thread: its group lives on, even if this was the main thread.
pub(crate) fn exit_thread() -> ! {
    loop {
        // SAFETY: the call touches no memory. Nothing of this thread is used after it, and what it
        // owns is leaked, not freed while other threads may use it.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Ends the whole group at once, from any thread.
pub(crate) fn exit_group(code: u8) -> ! {
    // SAFETY: the call runs no handler, touches no memory and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// System calls that the daemon never makes, each with arguments that do no harm where it is allowed.
pub(crate) const FORBIDDEN: [(&str, libc::c_long, [libc::c_long; 3]); 48] = {
    const NOWHERE: libc::c_long = -1;
    const NONE: [libc::c_long; 3] = [NOWHERE; 3];
    [
        ("execve", libc::SYS_execve, NONE),
        ("execveat", libc::SYS_execveat, NONE),
        (
            "clone",
            libc::SYS_clone,
            [libc::SIGCHLD as libc::c_long, 0, 0],
        ),
        ("ptrace", libc::SYS_ptrace, NONE),
        ("process_vm_readv", libc::SYS_process_vm_readv, NONE),
        ("process_vm_writev", libc::SYS_process_vm_writev, NONE),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, NONE),
        ("kcmp", libc::SYS_kcmp, NONE),
        ("mount", libc::SYS_mount, NONE),
        ("umount2", libc::SYS_umount2, NONE),
        ("pivot_root", libc::SYS_pivot_root, NONE),
        ("chroot", libc::SYS_chroot, NONE),
        ("setns", libc::SYS_setns, NONE),
        ("unshare", libc::SYS_unshare, NONE),
        ("init_module", libc::SYS_init_module, NONE),
        ("finit_module", libc::SYS_finit_module, NONE),
        ("delete_module", libc::SYS_delete_module, NONE),
        ("kexec_load", libc::SYS_kexec_load, NONE),
        ("reboot", libc::SYS_reboot, NONE),
        ("swapon", libc::SYS_swapon, NONE),
        ("swapoff", libc::SYS_swapoff, NONE),
        ("settimeofday", libc::SYS_settimeofday, NONE),
        ("clock_settime", libc::SYS_clock_settime, NONE),
        ("adjtimex", libc::SYS_adjtimex, NONE),
        ("sethostname", libc::SYS_sethostname, NONE),
        ("setuid", libc::SYS_setuid, NONE),
        ("setresuid", libc::SYS_setresuid, NONE),
        ("setgroups", libc::SYS_setgroups, NONE),
        ("capset", libc::SYS_capset, NONE),
        ("perf_event_open", libc::SYS_perf_event_open, NONE),
        ("bpf BPF_PROG_LOAD", libc::SYS_bpf, [5, NOWHERE, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, NONE),
        ("io_uring_setup", libc::SYS_io_uring_setup, NONE),
        ("add_key", libc::SYS_add_key, NONE),
        ("keyctl", libc::SYS_keyctl, NONE),
        ("mknodat", libc::SYS_mknodat, NONE),
        ("symlinkat", libc::SYS_symlinkat, NONE),
        (
            "socket AF_INET",
            libc::SYS_socket,
            [libc::AF_INET as libc::c_long, 1, 0],
        ),
        (
            "socket AF_NETLINK",
            libc::SYS_socket,
            [libc::AF_NETLINK as libc::c_long, 3, 11],
        ),
        (
            "socket AF_UNIX SOCK_DGRAM",
            libc::SYS_socket,
            [
                libc::AF_UNIX as libc::c_long,
                libc::SOCK_DGRAM as libc::c_long,
                0,
            ],
        ),
        // No such process, where it is allowed.
        (
            "tgkill of another process",
            libc::SYS_tgkill,
            [0x3fff_ffff, 0x3fff_ffff, libc::SIGABRT as libc::c_long],
        ),
        ("kill SIGTERM", libc::SYS_kill, [0x3fff_ffff, 15, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, NONE),
        ("personality", libc::SYS_personality, [0, 0, 0]),
        ("acct", libc::SYS_acct, NONE),
        ("seccomp", libc::SYS_seccomp, NONE),
        ("ioctl TIOCSTI", libc::SYS_ioctl, [NOWHERE, 0x5412, NOWHERE]),
        (
            "mmap PROT_EXEC",
            libc::SYS_mmap,
            [0, 4096, libc::PROT_EXEC as libc::c_long],
        ),
    ]
};

/// System calls that the daemon makes until it listens on a private socket.
pub(crate) const FORBIDDEN_LATER: [(&str, libc::c_long, [libc::c_long; 3]); 6] = {
    const NONE: [libc::c_long; 3] = [-1; 3];
    [
        ("connect", libc::SYS_connect, NONE),
        ("fchmodat", libc::SYS_fchmodat, NONE),
        ("fchown", libc::SYS_fchown, NONE),
        ("fchownat", libc::SYS_fchownat, NONE),
        ("lsetxattr", libc::SYS_lsetxattr, NONE),
        ("seccomp filter", libc::SYS_seccomp, [1, 0, -1]),
    ]
};

/// Makes a system call with these arguments, and returns the error number; 0: it succeeded. The pointers
/// among them are invalid.
pub(crate) fn try_call(number: libc::c_long, arguments: [libc::c_long; 3]) -> i32 {
    let [first, second, third] = arguments;
    // SAFETY: only the calls of `FORBIDDEN` and `FORBIDDEN_LATER` are passed. With these arguments the kernel finds no memory
    // of ours: pointers are -1. `clone` would copy this process, which has one thread.
    let result = unsafe { libc::syscall(number, first, second, third, 0, 0, 0) };
    if result >= 0 {
        return 0;
    }
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
