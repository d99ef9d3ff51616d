//! Every system call that the daemon makes after its loader is done, with the errors that it may
//! come back with: by its manual page, by the limits that a host sets, or by a seccomp profile.
//!
//! What is not in here, because it would be a lie that no kernel tells:
//! - `ESRCH` from `pidfd_open`, `kill` and the reads of a stat file *is* the kernel's word for a
//!   death, and the daemon is right to believe it. `ENOENT` for a path below `/proc` is not, and is.
//! - `EAGAIN` where something is ready: edge-triggered readiness comes once, and whoever is told
//!   "not yet" after it waits for the next.
//! - `EINTR` from a call that does not block; another error than that from `epoll_wait`.
//! - A `close` that fails and leaves the descriptor open.
//! - Memory of the process itself (`mmap`, `brk`, `mprotect`, `madvise`): a Rust program that gets
//!   none is aborted by design, and whoever restarts it finds an empty registry. Shared mappings,
//!   which the BPF ring needs, are in.

use std::path::Path;

use libc::c_long;
use reaper_tests::sys::seccomp::Call;
use rustix::io::Errno;

use crate::injection::Denied;
use crate::life::{Footing, SocketFile};

/// A call, and how it may fail.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) calls: Vec<Call>,
    /// The first is the one that a short run takes.
    pub(crate) errnos: &'static [Errno],
    /// Through what processes are looked at while it fails. The first as above.
    pub(crate) footings: &'static [Footing],
    /// What fails throughout, so that the call is made at all.
    pub(crate) denied: Vec<Denied>,
    pub(crate) file: SocketFile,
    pub(crate) may_refuse: bool,
}

const ALL: &[Footing] = &[
    Footing::Inode,
    Footing::Number,
    Footing::Stat,
    Footing::Pidfd,
];
const LOOKS: &[Footing] = &[
    Footing::Number,
    Footing::Stat,
    Footing::Inode,
    Footing::Pidfd,
];
const PIDFDS: &[Footing] = &[Footing::Inode, Footing::Pidfd];
const USUAL: &[Footing] = &[Footing::Pidfd];

impl Row {
    fn new(name: &'static str, calls: &[c_long], errnos: &'static [Errno]) -> Self {
        Self {
            name,
            calls: calls.iter().copied().map(Call::from).collect(),
            errnos,
            footings: USUAL,
            denied: Vec::new(),
            file: SocketFile::Removed,
            may_refuse: false,
        }
    }

    fn on(self, footings: &'static [Footing]) -> Self {
        Self { footings, ..self }
    }

    /// Only calls with this argument.
    fn with(mut self, argument: u8, value: u32) -> Self {
        for call in &mut self.calls {
            *call = call.with(argument, value);
        }
        self
    }

    fn while_denied(self, call: Call) -> Self {
        let denied = vec![(call, Some(Errno::PERM))];
        Self { denied, ..self }
    }

    /// Without this call there is no daemon: it may refuse to start.
    fn may_refuse(self) -> Self {
        Self {
            may_refuse: true,
            ..self
        }
    }

    /// The socket file may stay behind: that it goes needs this very call.
    fn file_may_stay(self) -> Self {
        let file = SocketFile::MayStay;
        Self { file, ..self }
    }
}

/// The calls that open a file.
pub(crate) fn open() -> Vec<Call> {
    OPEN.iter().copied().map(Call::from).collect()
}

/// What looks at processes.
pub(crate) fn looks() -> Vec<Row> {
    use Errno as E;
    vec![
        Row::new(
            "pidfd_open",
            &[libc::SYS_pidfd_open],
            &[
                E::MFILE,
                E::NFILE,
                E::NOMEM,
                E::NODEV,
                E::INVAL,
                E::NOSYS,
                E::PERM,
            ],
        )
        .on(PIDFDS),
        Row::new(
            "open",
            OPEN,
            &[E::MFILE, E::NOENT, E::ACCESS, E::NFILE, E::NOMEM, E::PERM],
        )
        // The lock file among them.
        .may_refuse()
        .on(ALL),
        Row::new("pread64", &[libc::SYS_pread64], &[E::NOMEM, E::INTR, E::IO]).on(LOOKS),
        Row::new("poll", POLL, &[E::NOMEM, E::INTR]).on(PIDFDS),
        Row::new(
            "fstatfs",
            &[libc::SYS_fstatfs],
            &[E::INTR, E::NOSYS, E::NOMEM, E::PERM],
        )
        .on(PIDFDS),
        // The lock file is looked at as well, and there is no start without it.
        Row::new("fstat", FSTAT, &[E::NOMEM, E::PERM, E::ACCESS])
            .may_refuse()
            .on(PIDFDS)
            .file_may_stay(),
        // The others know without asking whether the number is in use.
        Row::new("kill", &[libc::SYS_kill], &[E::PERM, E::NOSYS]).on(&[Footing::Number]),
        Row::new("ioctl", &[libc::SYS_ioctl], &[E::NOTTY, E::PERM, E::INVAL])
            .may_refuse()
            .on(PIDFDS),
    ]
}

/// What the sources do beside that.
pub(crate) fn sources() -> Vec<Row> {
    use Errno as E;
    // By their lengths: of a datagram's buffer, and of a netlink address.
    let (datagram, address) = (4_096, 12);
    let map_shared = libc::MAP_SHARED.cast_unsigned();
    let mut rows = vec![
        Row::new(
            "epoll_create1",
            &[libc::SYS_epoll_create1],
            &[E::MFILE, E::NFILE, E::NOMEM],
        )
        .may_refuse(),
        Row::new("epoll_ctl", &[libc::SYS_epoll_ctl], &[E::NOSPC, E::NOMEM]).may_refuse(),
        Row::new("epoll_wait", EPOLL_WAIT, &[E::INTR]),
        Row::new(
            "recv from the connector",
            &[libc::SYS_recvfrom],
            &[E::NOBUFS, E::NOMEM, E::INTR],
        )
        .with(2, datagram),
        Row::new(
            "send to the connector",
            &[libc::SYS_sendto],
            &[E::NOBUFS, E::CONNREFUSED, E::NOMEM],
        )
        .with(5, address),
        Row::new(
            "setsockopt",
            &[libc::SYS_setsockopt],
            &[E::NOMEM, E::PERM, E::NOPROTOOPT],
        ),
        Row::new(
            "getsockopt",
            &[libc::SYS_getsockopt],
            &[E::NOPROTOOPT, E::NOBUFS, E::PERM],
        ),
        Row::new(
            "bpf",
            &[libc::SYS_bpf],
            &[E::NOMEM, E::PERM, E::INVAL, E::MFILE, E::TOOBIG, E::BUSY],
        ),
        Row::new(
            "mmap of a ring",
            &[libc::SYS_mmap],
            &[E::NOMEM, E::PERM, E::AGAIN],
        )
        .with(3, map_shared),
        Row::new("fcntl", &[libc::SYS_fcntl], &[E::MFILE, E::INVAL]).may_refuse(),
    ];
    if Path::new("/sys/kernel/tracing/events").exists() {
        rows.push(perf_event_open());
    } else {
        println!("not tried without tracefs: perf_event_open");
    }
    rows
}

/// The probe's second way to be attached, where the first is not to be had.
fn perf_event_open() -> Row {
    use Errno as E;
    // BPF_RAW_TRACEPOINT_OPEN of linux/bpf.h.
    let first_way = Call::from(libc::SYS_bpf).with(0, 17);
    Row::new(
        "perf_event_open",
        &[libc::SYS_perf_event_open],
        &[E::ACCESS, E::MFILE, E::NOSYS],
    )
    .while_denied(first_way)
}

/// What the process and its runtime are made of.
pub(crate) fn process() -> Vec<Row> {
    use Errno as E;
    vec![
        Row::new("clone3", &[libc::SYS_clone3], &[E::AGAIN, E::NOMEM]).may_refuse(),
        Row::new(
            "eventfd2",
            &[libc::SYS_eventfd2],
            &[E::MFILE, E::NFILE, E::NOMEM],
        )
        .may_refuse(),
        Row::new(
            "socketpair",
            &[libc::SYS_socketpair],
            &[E::MFILE, E::NFILE, E::NOMEM],
        )
        .may_refuse(),
        // Tokens are kept under a random key.
        Row::new("getrandom", &[libc::SYS_getrandom], &[E::NOSYS, E::PERM]).may_refuse(),
        Row::new("prctl", &[libc::SYS_prctl], &[E::PERM, E::INVAL]),
        Row::new(
            "capget, capset",
            &[libc::SYS_capget, libc::SYS_capset],
            &[E::PERM],
        ),
        Row::new("prlimit64", &[libc::SYS_prlimit64], &[E::PERM]),
        Row::new(
            "sched_getaffinity",
            &[libc::SYS_sched_getaffinity],
            &[E::PERM, E::NOSYS],
        ),
        Row::new("read", &[libc::SYS_read], &[E::INTR, E::NOMEM, E::IO]),
        Row::new("uname", &[libc::SYS_uname], &[E::PERM]),
    ]
}

/// What the socket needs, and those who call on it.
pub(crate) fn serving() -> Vec<Row> {
    use Errno as E;
    vec![
        Row::new(
            "accept4",
            &[libc::SYS_accept4],
            &[
                E::MFILE,
                E::CONNABORTED,
                E::NFILE,
                E::NOBUFS,
                E::NOMEM,
                E::INTR,
                E::PERM,
            ],
        ),
        Row::new(
            "socket",
            &[libc::SYS_socket],
            &[E::MFILE, E::ACCESS, E::NFILE, E::NOBUFS, E::AFNOSUPPORT],
        )
        .may_refuse(),
        Row::new(
            "bind",
            &[libc::SYS_bind],
            &[E::ACCESS, E::ADDRINUSE, E::NOMEM, E::ROFS],
        )
        .may_refuse(),
        Row::new("listen", &[libc::SYS_listen], &[E::ADDRINUSE, E::OPNOTSUPP]).may_refuse(),
        Row::new("fchmod", CHMOD, &[E::PERM, E::ROFS, E::NOMEM])
            .may_refuse()
            .file_may_stay(),
        Row::new("mkdir", MKDIR, &[E::ACCESS, E::NOSPC, E::ROFS]).may_refuse(),
        Row::new("flock", &[libc::SYS_flock], &[E::NOLCK, E::INTR, E::AGAIN]).may_refuse(),
        Row::new("ftruncate", &[libc::SYS_ftruncate], &[E::IO, E::ROFS]).may_refuse(),
        Row::new("lseek", &[libc::SYS_lseek], &[E::INVAL]).may_refuse(),
        // By what is written: the log, and the end of the line in the lock file. A wake-up of the
        // runtime, which is eight bytes to an eventfd, does not fail.
        Row::new(
            "write to the log",
            &[libc::SYS_write],
            &[E::NOSPC, E::PIPE, E::IO],
        )
        .with(0, 2),
        Row::new(
            "write of the lock",
            &[libc::SYS_write],
            &[E::NOSPC, E::IO, E::DQUOT],
        )
        .may_refuse()
        .with(2, 1),
        Row::new(
            "writev",
            &[libc::SYS_writev],
            &[E::PIPE, E::CONNRESET, E::NOBUFS],
        ),
        Row::new("shutdown", &[libc::SYS_shutdown], &[E::NOTCONN]),
        Row::new("unlink", UNLINK, &[E::ACCESS, E::BUSY, E::ROFS]).file_may_stay(),
    ]
}

// One name in the manual, two numbers on older architectures.
#[cfg(target_arch = "x86_64")]
const OPEN: &[c_long] = &[libc::SYS_openat, libc::SYS_open];
#[cfg(target_arch = "x86_64")]
const POLL: &[c_long] = &[libc::SYS_ppoll, libc::SYS_poll];
#[cfg(target_arch = "x86_64")]
const FSTAT: &[c_long] = &[libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx];
#[cfg(target_arch = "x86_64")]
const EPOLL_WAIT: &[c_long] = &[libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
#[cfg(target_arch = "x86_64")]
const CHMOD: &[c_long] = &[libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_chmod];
#[cfg(target_arch = "x86_64")]
const MKDIR: &[c_long] = &[libc::SYS_mkdir, libc::SYS_mkdirat];
#[cfg(target_arch = "x86_64")]
const UNLINK: &[c_long] = &[libc::SYS_unlink, libc::SYS_unlinkat];

#[cfg(not(target_arch = "x86_64"))]
const OPEN: &[c_long] = &[libc::SYS_openat];
#[cfg(not(target_arch = "x86_64"))]
const POLL: &[c_long] = &[libc::SYS_ppoll];
#[cfg(not(target_arch = "x86_64"))]
const FSTAT: &[c_long] = &[libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx];
#[cfg(not(target_arch = "x86_64"))]
const EPOLL_WAIT: &[c_long] = &[libc::SYS_epoll_pwait];
#[cfg(not(target_arch = "x86_64"))]
const CHMOD: &[c_long] = &[libc::SYS_fchmod, libc::SYS_fchmodat];
#[cfg(not(target_arch = "x86_64"))]
const MKDIR: &[c_long] = &[libc::SYS_mkdirat];
#[cfg(not(target_arch = "x86_64"))]
const UNLINK: &[c_long] = &[libc::SYS_unlinkat];
