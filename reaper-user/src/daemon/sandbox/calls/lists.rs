//! The lists of system calls. Those of the C library, the Rust runtime and tokio are in `SHARED` and
//! `WORKER`; the others are named after their callers.

use libc::{self as c, c_long};

/// A call that is allowed with certain arguments: of each, its index, a mask, and what the masked
/// argument must be. A call may have several entries.
pub(super) struct Allowed {
    pub(super) call: c_long,
    pub(super) conditions: &'static [(u8, u64, u64)],
}

const fn only(call: c_long, conditions: &'static [(u8, u64, u64)]) -> Allowed {
    Allowed { call, conditions }
}

/// All bits of an argument of the type `int`.
const INT: u64 = 0xffff_ffff;
/// The number and the type of an ioctl request, without the size of its argument.
const IOCTL: u64 = 0xffff;

const fn word(value: i32) -> u64 {
    value.cast_unsigned() as u64
}

/// Both processes.
pub(super) const SHARED: &[c_long] = &[
    // Memory.
    c::SYS_brk,
    c::SYS_munmap,
    c::SYS_mremap,
    c::SYS_madvise,
    // Descriptors.
    c::SYS_read,
    c::SYS_readv,
    c::SYS_pread64,
    c::SYS_write,
    c::SYS_writev,
    c::SYS_lseek,
    c::SYS_close,
    c::SYS_dup,
    c::SYS_dup3,
    c::SYS_ppoll,
    // Files. Which ones, Landlock decides.
    c::SYS_openat,
    c::SYS_fstat,
    c::SYS_newfstatat,
    c::SYS_statx,
    c::SYS_statfs,
    c::SYS_fstatfs,
    c::SYS_readlinkat,
    c::SYS_faccessat,
    c::SYS_faccessat2,
    c::SYS_getdents64,
    c::SYS_getcwd,
    // Messages.
    c::SYS_sendmsg,
    c::SYS_recvmsg,
    c::SYS_sendto,
    c::SYS_recvfrom,
    c::SYS_setsockopt,
    c::SYS_getsockopt,
    c::SYS_getsockname,
    c::SYS_bind,
    c::SYS_connect,
    // Threads, time and the end.
    c::SYS_futex,
    c::SYS_sched_yield,
    c::SYS_sched_getaffinity,
    c::SYS_restart_syscall,
    c::SYS_rt_sigaction,
    c::SYS_rt_sigprocmask,
    c::SYS_rt_sigreturn,
    c::SYS_sigaltstack,
    c::SYS_clock_gettime,
    c::SYS_clock_getres,
    c::SYS_clock_nanosleep,
    c::SYS_nanosleep,
    c::SYS_gettimeofday,
    c::SYS_exit,
    c::SYS_exit_group,
    // About this process and the system.
    c::SYS_getpid,
    c::SYS_getppid,
    c::SYS_gettid,
    c::SYS_getuid,
    c::SYS_geteuid,
    c::SYS_getgid,
    c::SYS_getegid,
    c::SYS_capget,
    c::SYS_getrandom,
    c::SYS_uname,
    c::SYS_sysinfo,
    c::SYS_getcpu,
    c::SYS_getrusage,
    #[cfg(target_arch = "x86_64")]
    c::SYS_open,
    #[cfg(target_arch = "x86_64")]
    c::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    c::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    c::SYS_access,
    #[cfg(target_arch = "x86_64")]
    c::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    c::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    c::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    c::SYS_time,
];

/// Both processes, with these arguments only.
pub(super) const SHARED_IF: &[Allowed] = &[
    // No new code.
    only(c::SYS_mmap, &[(2, word(c::PROT_EXEC), 0)]),
    only(c::SYS_mprotect, &[(2, word(c::PROT_EXEC), 0)]),
    // Not who gets signals of a descriptor, and which.
    only(c::SYS_fcntl, &[(1, INT, word(c::F_DUPFD))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_DUPFD_CLOEXEC))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_GETFD))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_SETFD))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_GETFL))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_SETFL))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_GETLK))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_SETLK))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_OFD_GETLK))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_OFD_SETLK))]),
    // Whether a pid is in use.
    only(c::SYS_kill, &[(1, INT, 0)]),
    // Their own limits.
    only(c::SYS_prlimit64, &[(0, INT, 0)]),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_SET_NAME))]),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_GET_NAME))]),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_SET_VMA))]),
    only(
        c::SYS_prctl,
        &[(0, INT, word(c::PR_SET_DUMPABLE)), (1, INT, 0)],
    ),
    only(c::SYS_ioctl, &[(1, IOCTL, 0x5401)]), // TCGETS: whether it is a terminal
    only(c::SYS_ioctl, &[(1, IOCTL, 0x542a)]), // TCGETS2
    only(c::SYS_ioctl, &[(1, IOCTL, 0x5413)]), // TIOCGWINSZ
    only(c::SYS_ioctl, &[(1, IOCTL, 0x5421)]), // FIONBIO
    only(c::SYS_ioctl, &[(1, IOCTL, 0x5451)]), // FIOCLEX
];

/// The worker.
pub(super) const WORKER: &[c_long] = &[
    // Threads of the runtime and of canaries.
    c::SYS_set_robust_list,
    c::SYS_get_robust_list,
    c::SYS_rseq,
    c::SYS_set_tid_address,
    c::SYS_membarrier,
    // Memory that is kept from swap and core dumps, for secrets.
    c::SYS_mlock,
    c::SYS_mlock2,
    c::SYS_munlock,
    c::SYS_memfd_create,
    c::SYS_memfd_secret,
    c::SYS_fallocate,
    // The event loop.
    c::SYS_epoll_create1,
    c::SYS_epoll_ctl,
    c::SYS_epoll_pwait,
    c::SYS_epoll_pwait2,
    c::SYS_eventfd2,
    c::SYS_pipe2,
    c::SYS_timerfd_create,
    c::SYS_timerfd_settime,
    // The server.
    c::SYS_listen,
    c::SYS_accept4,
    c::SYS_accept,
    c::SYS_getpeername,
    c::SYS_shutdown,
    // The folder of the socket, and token files.
    c::SYS_renameat2,
    c::SYS_openat2,
    c::SYS_unlinkat,
    c::SYS_mkdirat,
    c::SYS_fchmod,
    c::SYS_fchmodat,
    SYS_FCHMODAT2,
    c::SYS_fchown,
    c::SYS_fchownat,
    c::SYS_lsetxattr,
    c::SYS_flock,
    c::SYS_ftruncate,
    c::SYS_umask,
    c::SYS_pwrite64,
    c::SYS_fsync,
    c::SYS_fdatasync,
    // Processes.
    c::SYS_pidfd_open,
    c::SYS_move_pages,
    #[cfg(target_arch = "x86_64")]
    c::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    c::SYS_epoll_create,
    #[cfg(target_arch = "x86_64")]
    c::SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    c::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    c::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    c::SYS_chmod,
];

/// `fchmodat2` (Linux 6.6), which has the same number on every architecture since then.
const SYS_FCHMODAT2: c_long = 452;

/// Stream sockets of the family `AF_UNIX`. The type has flags above these bits.
const STREAM: &[(u8, u64, u64)] = &[(0, INT, word(c::AF_UNIX)), (1, 0xff, word(c::SOCK_STREAM))];

/// The worker, with these arguments only.
pub(super) const WORKER_IF: &[Allowed] = &[
    // Threads, and no processes.
    only(
        c::SYS_clone,
        &[(0, word(c::CLONE_THREAD), word(c::CLONE_THREAD))],
    ),
    // No datagrams: each of them can be addressed to any socket. A log in the journal has one, from before.
    only(c::SYS_socket, STREAM),
    only(c::SYS_socketpair, STREAM),
    // The memory file cannot shrink.
    only(c::SYS_fcntl, &[(1, INT, word(c::F_ADD_SEALS))]),
    only(c::SYS_fcntl, &[(1, INT, word(c::F_GET_SEALS))]),
    // One more filter, once it listens.
    only(
        c::SYS_seccomp,
        &[(0, INT, c::SECCOMP_SET_MODE_FILTER as u64)],
    ),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_SET_NO_NEW_PRIVS))]),
    // Signal 0: whether the process has been reaped.
    only(c::SYS_pidfd_send_signal, &[(1, INT, 0)]),
    only(c::SYS_ioctl, &[(1, IOCTL, 0xff0b)]), // PIDFD_GET_INFO
    only(c::SYS_ioctl, &[(1, IOCTL, 0xb706)]), // NS_GET_PID_FROM_PIDNS
    // Maps that it has: look up, update, delete, list, and their sizes.
    only(c::SYS_bpf, &[(0, INT, 1)]),
    only(c::SYS_bpf, &[(0, INT, 2)]),
    only(c::SYS_bpf, &[(0, INT, 3)]),
    only(c::SYS_bpf, &[(0, INT, 4)]),
    only(c::SYS_bpf, &[(0, INT, 15)]),
];

/// What the worker can no longer do once it listens: connect to other services, and change its own filter.
pub(super) const LISTENING: &[c_long] = &[c::SYS_connect, c::SYS_seccomp];
/// The same, if the socket is not bound again with an access list.
pub(super) const WITHOUT_LIST: &[c_long] = &[c::SYS_lsetxattr];
/// The same, if the socket is not bound again with a group.
pub(super) const WITHOUT_GROUP: &[c_long] = &[c::SYS_fchown, c::SYS_fchownat];
/// The same, if its mode is set before it is bound, by its descriptor.
pub(super) const WITHOUT_MODE: &[c_long] = &[
    c::SYS_fchmodat,
    SYS_FCHMODAT2,
    #[cfg(target_arch = "x86_64")]
    c::SYS_chmod,
];

/// The monitor.
pub(super) const MONITOR: &[c_long] = &[
    // The worker.
    c::SYS_wait4,
    c::SYS_waitid,
    // Whether processes have memory.
    c::SYS_move_pages,
    // The probe and the connector's filter.
    c::SYS_bpf,
    c::SYS_perf_event_open,
];

/// The monitor, with these arguments only.
pub(super) const MONITOR_IF: &[Allowed] = &[
    // The signals that it passes on.
    only(c::SYS_kill, &[(1, INT, word(c::SIGTERM))]),
    only(c::SYS_kill, &[(1, INT, word(c::SIGINT))]),
    only(c::SYS_kill, &[(1, INT, word(c::SIGHUP))]),
    only(c::SYS_kill, &[(1, INT, word(c::SIGQUIT))]),
    only(c::SYS_kill, &[(1, INT, word(c::SIGUSR1))]),
    only(c::SYS_kill, &[(1, INT, word(c::SIGUSR2))]),
    only(c::SYS_socket, &[(0, INT, word(c::AF_UNIX))]),
    only(c::SYS_socket, &[(0, INT, word(c::AF_NETLINK))]),
    only(c::SYS_ioctl, &[(1, IOCTL, 0x2400)]), // PERF_EVENT_IOC_ENABLE
    only(c::SYS_ioctl, &[(1, IOCTL, 0x2401)]), // PERF_EVENT_IOC_DISABLE
    only(c::SYS_ioctl, &[(1, IOCTL, 0x2408)]), // PERF_EVENT_IOC_SET_BPF
];

/// What it takes to start a worker, which then gives it up: another user, no capabilities, and limits of
/// files and calls.
pub(super) const START: &[c_long] = &[
    c::SYS_setgroups,
    c::SYS_getgroups,
    c::SYS_setresgid,
    c::SYS_setresuid,
    c::SYS_capset,
    c::SYS_landlock_create_ruleset,
    c::SYS_landlock_add_rule,
    c::SYS_landlock_restrict_self,
    c::SYS_seccomp,
    #[cfg(target_arch = "x86_64")]
    c::SYS_fork,
];

/// The flags of clone(2) that create namespaces.
const NAMESPACES: u64 = word(c::CLONE_NEWNS)
    | word(c::CLONE_NEWUTS)
    | word(c::CLONE_NEWIPC)
    | word(c::CLONE_NEWUSER)
    | word(c::CLONE_NEWPID)
    | word(c::CLONE_NEWNET)
    | word(c::CLONE_NEWCGROUP);

/// The same, with these arguments only.
pub(super) const START_IF: &[Allowed] = &[
    // The channel to it.
    only(
        c::SYS_socketpair,
        &[
            (0, INT, word(c::AF_UNIX)),
            (1, 0xff, word(c::SOCK_SEQPACKET)),
        ],
    ),
    only(c::SYS_clone, &[(0, NAMESPACES, 0)]),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_SET_PDEATHSIG))]),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_SET_KEEPCAPS))]),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_SET_NO_NEW_PRIVS))]),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_CAPBSET_DROP))]),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_CAP_AMBIENT))]),
    only(c::SYS_prctl, &[(0, INT, word(c::PR_SET_SECCOMP))]),
    // To itself, if its monitor has ended.
    only(c::SYS_kill, &[(1, INT, word(c::SIGKILL))]),
];
