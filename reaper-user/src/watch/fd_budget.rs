//! How the daemon divides its open descriptors. What it needs for itself is listed and reserved; of
//! the rest, one share pins processes and the other serves connections.
//!
//! `tests/tests/system_faults/descriptors.rs` compares the lists with a running daemon. A process
//! that opens more than its limit gets EMFILE (getrlimit(2), `RLIMIT_NOFILE`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reaper_registry::Source;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::engine::Sources;
use crate::sys::limits;

/// Descriptors that are opened for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub what: &'static str,
    /// Open as long as the daemon runs or the source works.
    pub held: usize,
    /// Open for a moment, in addition.
    pub briefly: usize,
}

const fn need(what: &'static str, held: usize, briefly: usize) -> Need {
    Need {
        what,
        held,
        briefly,
    }
}

/// Open before the first source starts.
const PROCESS: &[Need] = &[
    need("standard streams", 3, 0),
    need("runtime: epoll set, its duplicate, eventfd", 3, 0),
    need("signals: socket pair, duplicate of its reading end", 3, 0),
];
const SERVING: &[Need] = &[
    need("lock file", 1, 0),
    need(
        "listening socket; a second one while it is bound again",
        1,
        1,
    ),
    need("accepted connection that waits for its place", 0, 1),
];
const PIDFD: &[Need] = &[need("pidfd: epoll set, its duplicate", 2, 0)];
const NETLINK: &[Need] = &[
    need("netlink: socket; a second one while it is replaced", 1, 1),
    need("netlink: filter program, its duplicate, two maps", 4, 0),
];
const EBPF: &[Need] = &[
    need("ebpf: four maps, duplicate of the ring", 5, 0),
    need("ebpf: program, its duplicate, link", 3, 0),
    need("ebpf: perf event of the classic tracepoint", 1, 0),
    need("ebpf: file under /sys or /proc, program on trial", 0, 2),
];
/// Descriptors that one thread opens to check a process: a pidfd, its folder in `/proc` and a file
/// in that. Every thread of the runtime may do so at the same time.
const FDS_PER_CHECK: usize = 3;

/// Fewer connections are not enough for some event streams and some requests.
const MIN_CONNECTIONS: usize = 6;
/// More connections are of no use: further clients wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1_024;
/// Connections that event streams leave to requests, which end: a quarter, within these bounds.
/// With the lower one a few clients can send requests at once; the upper one is more than run at
/// once.
const FOR_REQUESTS: (usize, usize) = (4, 64);
/// The share of connections in what is not reserved. The larger share is for processes, because
/// each one without a descriptor is watched less exactly for as long as it runs.
const CONNECTIONS_PERCENT: usize = 40;
/// Used where the limit cannot be read: the lowest default of any system.
const UNKNOWN_LIMIT: usize = 256;
/// Lists the open descriptors of this process.
const OPEN_DESCRIPTORS: &str = if cfg!(target_os = "linux") {
    "/proc/self/fd"
} else {
    "/dev/fd"
};

/// The limit of open descriptors is too low for the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of open descriptors is {limit}, and at least {needed} are needed here")]
pub struct TooFewDescriptors {
    pub limit: usize,
    pub needed: usize,
}

/// How the daemon divides its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The limit of this process.
    pub limit: usize,
    /// What the daemon needs for itself.
    pub reserved: usize,
    /// Processes that can be pinned by a descriptor each.
    pub processes: usize,
    /// Connections at once, event streams included.
    pub connections: usize,
    /// Event streams at once.
    pub streams: usize,
}

impl Shares {
    /// Returns the shares of a daemon with these sources and this many worker threads. Call it
    /// before the daemon opens anything: what is open already is counted as reserved.
    pub fn of_daemon(sources: &Sources, workers: usize) -> Result<Self, TooFewDescriptors> {
        let limit = open_file_limit();
        Self::of(limit, reserved(sources, workers, open_below(limit)))
    }

    fn of(limit: usize, reserved: usize) -> Result<Self, TooFewDescriptors> {
        let needed = reserved + MIN_CONNECTIONS;
        let Some(spare) = limit.checked_sub(needed) else {
            return Err(TooFewDescriptors { limit, needed });
        };
        let rest = spare + MIN_CONNECTIONS;
        let connections =
            percent(rest, CONNECTIONS_PERCENT).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
        let (fewest, most) = FOR_REQUESTS;
        Ok(Self {
            limit,
            reserved,
            processes: rest - connections,
            connections,
            streams: connections - (connections / 4).clamp(fewest, most),
        })
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            limit,
            reserved,
            processes,
            connections,
            streams,
        } = self;
        write!(
            f,
            "descriptors: limit {limit}, reserved {reserved}, processes {processes}, connections \
             {connections}, of these event streams {streams}"
        )
    }
}

/// Returns what a daemon with these sources opens besides connections, pinned processes and checks.
pub fn needs(sources: &Sources) -> Vec<Need> {
    let of_source = |source: &Source| match source {
        Source::Netlink => NETLINK,
        Source::Ebpf => EBPF,
        Source::Pidfd => PIDFD,
        _ => &[],
    };
    let wanted = crate::sources::ALL.into_iter();
    let wanted = wanted.filter(|source| sources.contains(*source));
    let of_sources = wanted.flat_map(|source| of_source(&source));
    let whole = PROCESS.iter().chain(SERVING).chain(of_sources);
    whole.copied().collect()
}

/// Returns the lowest limit at which a daemon with these sources starts.
pub fn minimum(sources: &Sources) -> usize {
    reserved(sources, 1, 0) + MIN_CONNECTIONS
}

/// Returns how many worker threads the daemon should have: one per CPU, and fewer where the
/// descriptors for their checks would exceed a quarter of what the minimum leaves.
pub fn worker_threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    // The daemon raises its soft limit to the hard one.
    let limit = limits::open_files().map_or(UNKNOWN_LIMIT, |limits| number(limits.maximum));
    let spare = limit.saturating_sub(minimum(&Sources::default()));
    cpus.min(1 + spare / 4 / FDS_PER_CHECK)
}

/// Returns what is reserved. The main thread checks processes as the workers do.
fn reserved(sources: &Sources, workers: usize, open_now: usize) -> usize {
    let all: usize = needs(sources).iter().map(|it| it.held + it.briefly).sum();
    // Inherited from the parent, or opened by a program that embeds the library.
    let process: usize = PROCESS.iter().map(|need| need.held).sum();
    all + open_now.saturating_sub(process) + (workers + 1) * FDS_PER_CHECK
}

/// Counts the open descriptors below the limit. The limit is one of descriptor numbers: a
/// descriptor beyond it takes nothing from the shares.
fn open_below(limit: usize) -> usize {
    let Ok(entries) = std::fs::read_dir(OPEN_DESCRIPTORS) else {
        return 0;
    };
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<usize>().ok();
    let open = entries.flatten().filter_map(number);
    // One of them is the listing's.
    open.filter(|number| *number < limit)
        .count()
        .saturating_sub(1)
}

/// The budget of descriptors that pin processes. If it runs out, identities are weaker; no session
/// is refused.
#[derive(Debug)]
pub struct FdBudget {
    limit: usize,
    used: AtomicUsize,
}

/// The right to one open descriptor. Dropping it returns it to the budget.
#[derive(Debug)]
pub struct Slot(Arc<FdBudget>);

impl FdBudget {
    /// Creates a budget of this many descriptors.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// Creates a budget of a share of what this process may still open, for a program that does
    /// more than watch processes.
    pub fn from_limits() -> Arc<Self> {
        let limit = open_file_limit();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let reserved = reserved(&Sources::default(), threads, open_below(limit));
        let rest = limit.saturating_sub(reserved);
        Self::new(percent(rest, 100 - CONNECTIONS_PERCENT))
    }

    /// Takes a slot, if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < self.limit).then_some(used + 1)
            })
            .is_ok()
            .then(|| Slot(self.clone()))
    }

    /// Returns the number of slots.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the number of slots in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

fn open_file_limit() -> usize {
    limits::open_files().map_or(UNKNOWN_LIMIT, |limits| number(limits.current))
}

fn number(limit: Option<u64>) -> usize {
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Does not overflow, even if there is no limit.
fn percent(of: usize, share: usize) -> usize {
    of / 100 * share + of % 100 * share / 100
}

/// Raises the soft limit of open descriptors to the hard one.
pub fn raise_open_file_limit() {
    let raised = limits::open_files().and_then(|limits| {
        let raised = Rlimit {
            current: limits.maximum,
            ..limits
        };
        Ok(setrlimit(Resource::Nofile, raised)?)
    });
    if let Err(error) = raised {
        log::warn!("cannot raise the limit of open descriptors: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_limit_and_streams_leave_connections() {
        let sources = Sources::default();
        let least = minimum(&sources);
        for limit in (least..2_000).chain([65_536, 1 << 20, usize::MAX]) {
            let shares = Shares::of(limit, reserved(&sources, 1, 0)).unwrap();
            let Shares {
                reserved,
                processes,
                connections,
                streams,
                ..
            } = shares;
            assert_eq!(reserved + processes + connections, limit, "{shares:?}");
            assert!((MIN_CONNECTIONS..=MAX_CONNECTIONS).contains(&connections));
            assert!(streams >= 2, "{shares:?}");
            assert!(connections - streams >= FOR_REQUESTS.0, "{shares:?}");
        }
    }

    #[test]
    fn an_error_below_the_minimum_has_the_limit_and_the_need() {
        let sources = Sources::only([]);
        let least = minimum(&sources);
        let refused = Shares::of(least - 1, reserved(&sources, 1, 0)).unwrap_err();
        let expected = TooFewDescriptors {
            limit: least - 1,
            needed: least,
        };
        assert_eq!(refused, expected);
    }

    #[test]
    fn inherited_descriptors_and_threads_are_reserved() {
        let sources = Sources::only([]);
        let process: usize = PROCESS.iter().map(|need| need.held).sum();
        let plain = reserved(&sources, 1, process);
        assert_eq!(plain, reserved(&sources, 1, 0));
        assert_eq!(reserved(&sources, 1, process + 5), plain + 5);
        assert_eq!(reserved(&sources, 3, process), plain + 2 * FDS_PER_CHECK);
    }

    #[test]
    fn open_descriptors_are_counted_up_to_the_limit() {
        let before = open_below(usize::MAX);
        let _files: Vec<_> = (0..100)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        // Other tests open and close descriptors meanwhile.
        assert!(open_below(usize::MAX) > before.saturating_sub(50) + 50);
        assert!(open_below(3) <= 3);
    }
}
