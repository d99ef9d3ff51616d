//! The budget of open descriptors that pin processes. What this library and the daemon need for
//! themselves is listed and reserved.
//!
//! `tests/tests/system_faults/descriptors.rs` compares the lists with a running daemon. A process
//! that opens more than its limit gets EMFILE (getrlimit(2), `RLIMIT_NOFILE`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reaper_registry::Source;

use crate::engine::Sources;
use crate::sys::limits;

/// Descriptors that are opened for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// What for.
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
    need("channel to the monitor", 1, 0),
];
const SERVING: &[Need] = &[
    need(
        "memory file and memory of secrets; duplicates for the monitor",
        2,
        2,
    ),
    need(
        "lock file, socket folder; new ones while it is bound again",
        2,
        2,
    ),
    need(
        "listening socket; a second one while it is bound again",
        1,
        1,
    ),
    need("accepted connection that waits for its place", 0, 1),
    need("pidfd of the process that connected", 0, 1),
    need("connections that wait for a place or are refused", 0, 6),
    need("connections that read metrics over TCP", 0, 4),
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
pub(crate) const FDS_PER_CHECK: usize = 3;

/// The share of connections in what is not reserved. The larger share is for processes, because
/// each one without a descriptor is watched less exactly for as long as it runs.
pub(crate) const CONNECTIONS_PERCENT: usize = 40;
/// Used where the limit cannot be read: the lowest default of any system.
pub(crate) const UNKNOWN_LIMIT: usize = 256;
/// Lists the open descriptors of this process.
const OPEN_DESCRIPTORS: &str = if cfg!(target_os = "linux") {
    "/proc/self/fd"
} else {
    "/dev/fd"
};

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

/// Returns what is reserved. The main thread checks processes as the workers do.
pub(crate) fn reserved(sources: &Sources, workers: usize, open_now: usize) -> usize {
    let all: usize = needs(sources).iter().map(|it| it.held + it.briefly).sum();
    // Inherited from the parent, or opened by a program that embeds the library.
    let process: usize = PROCESS.iter().map(|need| need.held).sum();
    all + open_now.saturating_sub(process) + (workers + 1) * FDS_PER_CHECK
}

/// Counts the open descriptors below the limit. The limit is one of descriptor numbers: a
/// descriptor beyond it takes nothing from the shares.
pub(crate) fn open_below(limit: usize) -> usize {
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
pub(crate) struct FdBudget {
    limit: usize,
    used: AtomicUsize,
}

/// The right to one open descriptor. Dropping it returns it to the budget.
#[derive(Debug)]
pub(crate) struct Slot(Arc<FdBudget>);

impl FdBudget {
    /// Creates a budget of this many descriptors.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// Creates a budget of a share of what this process may still open, for a program that does
    /// more than watch processes.
    pub(crate) fn from_limits() -> Arc<Self> {
        let limit = open_file_limit();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let reserved = reserved(&Sources::default(), threads, open_below(limit));
        let rest = limit.saturating_sub(reserved);
        Self::new(percent(rest, 100 - CONNECTIONS_PERCENT))
    }

    /// Takes a slot, if one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < self.limit).then_some(used + 1)
            })
            .is_ok()
            .then(|| Slot(self.clone()))
    }

    /// Returns the number of slots.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the number of slots in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) fn open_file_limit() -> usize {
    limits::open_files().map_or(UNKNOWN_LIMIT, |limits| number(limits.current))
}

pub(crate) fn number(limit: Option<u64>) -> usize {
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Does not overflow, even if there is no limit.
pub(crate) fn percent(of: usize, share: usize) -> usize {
    of / 100 * share + of % 100 * share / 100
}

#[cfg(test)]
mod tests {
    use super::*;

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
