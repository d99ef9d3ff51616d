//! Every system call that the daemon makes after its loader is done, with the errors that it can
//! return according to its manual page, because of a host's limits, or because of a seccomp
//! profile.
//!
//! Not included, because no kernel does it:
//! - `ESRCH` from `pidfd_open`, `kill` and reads of a stat file for a live process: it means that
//!   the process is gone, and the daemon relies on that. `ENOENT` for a path below `/proc` does not
//!   mean that, and is included.
//! - `EAGAIN` where something is ready: edge-triggered readiness is reported once, so after
//!   `EAGAIN` a program waits for the next report.
//! - `EINTR` from a call that does not block, and other errors than `EINTR` from `epoll_wait`.
//! - A `close` that fails and leaves the descriptor open.
//!
//! Not included either: memory of the process itself (`mmap`, `brk`, `mprotect`, `madvise`). A Rust
//! program without memory aborts by design, and a restarted daemon has an empty registry. Shared
//! mappings, which the BPF ring needs, are included.

use std::path::Path;

use libc::c_long;
use reaper_tests::sys::seccomp::{Call, Denied};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use crate::scenario::{PinnedBy, SocketFile};

/// A call, and how it can fail.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) calls: Vec<Call>,
    /// A bounded run tries only the first.
    pub(crate) errnos: &'static [Errno],
    /// What processes are pinned by while the call fails. A bounded run tries only the first.
    pub(crate) pinned_by: &'static [PinnedBy],
    /// Calls that fail throughout, so that this call is made at all.
    pub(crate) denied: Vec<Denied>,
    pub(crate) file: SocketFile,
    pub(crate) may_refuse: bool,
}

// The order matters: a bounded run tries only the first.
const ALL: &[PinnedBy] = &[
    PinnedBy::PidfdInode,
    PinnedBy::StartTime,
    PinnedBy::StatFile,
    PinnedBy::Pidfd,
];
const START_TIME_FIRST: &[PinnedBy] = &[
    PinnedBy::StartTime,
    PinnedBy::StatFile,
    PinnedBy::PidfdInode,
    PinnedBy::Pidfd,
];
const PIDFDS: &[PinnedBy] = &[PinnedBy::PidfdInode, PinnedBy::Pidfd];
const DEFAULT: &[PinnedBy] = &[PinnedBy::Pidfd];

/// The errors of calls that only make a descriptor.
const NO_DESCRIPTOR: &[Errno] = &[Errno::MFILE, Errno::NFILE, Errno::NOMEM];

impl Row {
    fn new(name: &'static str, calls: &[c_long], errnos: &'static [Errno]) -> Self {
        Self {
            name,
            calls: calls.iter().copied().map(Call::from).collect(),
            errnos,
            pinned_by: DEFAULT,
            denied: Vec::new(),
            file: SocketFile::Removed,
            may_refuse: false,
        }
    }

    fn pinned_by(self, pinned_by: &'static [PinnedBy]) -> Self {
        Self { pinned_by, ..self }
    }

    /// Restricts the row to calls with this argument.
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

    /// The daemon may refuse to start without this call.
    fn may_refuse(self) -> Self {
        Self {
            may_refuse: true,
            ..self
        }
    }

    /// The socket file may be left behind: removing it needs this call.
    fn file_may_stay(self) -> Self {
        let file = SocketFile::MayStay;
        Self { file, ..self }
    }
}

/// The calls that open a file.
pub(crate) fn open() -> Vec<Call> {
    OPEN.iter().copied().map(Call::from).collect()
}

/// The calls that check processes.
pub(crate) fn process_checks() -> Vec<Row> {
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
        .pinned_by(PIDFDS),
        Row::new(
            "open",
            OPEN,
            &[E::MFILE, E::NOENT, E::ACCESS, E::NFILE, E::NOMEM, E::PERM],
        )
        // This includes the lock file.
        .may_refuse()
        .pinned_by(ALL),
        Row::new("pread64", &[libc::SYS_pread64], &[E::NOMEM, E::INTR, E::IO])
            .pinned_by(START_TIME_FIRST),
        Row::new("poll", POLL, &[E::NOMEM, E::INTR]).pinned_by(PIDFDS),
        Row::new(
            "fstatfs",
            &[libc::SYS_fstatfs],
            &[E::INTR, E::NOSYS, E::NOMEM, E::PERM],
        )
        .pinned_by(PIDFDS),
        // The lock file needs this call as well, and the daemon does not start without it.
        Row::new("fstat", FSTAT, &[E::NOMEM, E::PERM, E::ACCESS])
            .may_refuse()
            .pinned_by(PIDFDS)
            .file_may_stay(),
        // With the other identities, the daemon need not check whether the pid is in use.
        Row::new("kill", &[libc::SYS_kill], &[E::PERM, E::NOSYS]).pinned_by(&[PinnedBy::StartTime]),
        Row::new("ioctl", &[libc::SYS_ioctl], &[E::NOTTY, E::PERM, E::INVAL])
            .may_refuse()
            .pinned_by(PIDFDS),
    ]
}

/// The other calls of the sources.
pub(crate) fn sources() -> Vec<Row> {
    use Errno as E;
    // These calls are recognized by the length of a datagram's buffer and of a netlink address.
    let (datagram, address) = (4_096, 12);
    let map_shared = libc::MAP_SHARED.cast_unsigned();
    let mut rows = vec![
        Row::new("epoll_create1", &[libc::SYS_epoll_create1], NO_DESCRIPTOR).may_refuse(),
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
        Row::new("fcntl", &[libc::SYS_fcntl], &[E::MFILE, E::INVAL]).may_refuse(),
    ];
    if may_load_the_probe() {
        let ring = Row::new(
            "mmap of a ring",
            &[libc::SYS_mmap],
            &[E::NOMEM, E::PERM, E::AGAIN],
        );
        rows.push(ring.with(3, map_shared));
    } else {
        println!("not tried without CAP_BPF and CAP_PERFMON: mmap of a ring");
    }
    if Path::new("/sys/kernel/tracing/events").exists() {
        rows.push(perf_event_open());
    } else {
        println!("not tried without tracefs: perf_event_open");
    }
    rows
}

fn may_load_the_probe() -> bool {
    let needed = CapabilitySet::BPF | CapabilitySet::PERFMON;
    capabilities(None).is_ok_and(|held| {
        held.effective.contains(needed) || held.effective.contains(CapabilitySet::SYS_ADMIN)
    })
}

/// The second way to attach the probe, used where the first fails.
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

/// The calls of the process and its runtime.
pub(crate) fn runtime() -> Vec<Row> {
    use Errno as E;
    vec![
        Row::new("clone3", &[libc::SYS_clone3], &[E::AGAIN, E::NOMEM]).may_refuse(),
        Row::new("eventfd2", &[libc::SYS_eventfd2], NO_DESCRIPTOR).may_refuse(),
        Row::new("socketpair", &[libc::SYS_socketpair], NO_DESCRIPTOR).may_refuse(),
        // Tokens are hashed with a random key.
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

/// The calls for the socket, its connections and the log.
pub(crate) fn socket() -> Vec<Row> {
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
        // As before Linux 6.5: the peer is recognised by its start time.
        Row::new(
            "getsockopt for a pidfd",
            &[libc::SYS_getsockopt],
            &[E::NOPROTOOPT, E::NOSYS],
        )
        .with(2, libc::SO_PEERPIDFD.cast_unsigned()),
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
        // Recognized by descriptor 3 (the log: the first that a daemon opens) and by length 1 (the end of the line in the lock
        // file). A wake-up of the runtime, eight bytes to an eventfd, does not fail.
        Row::new(
            "write to the log",
            &[libc::SYS_write],
            &[E::NOSPC, E::PIPE, E::IO],
        )
        .with(0, 3),
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

// Some calls have one manual page but several numbers on older architectures.
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
