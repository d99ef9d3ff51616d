//! How many descriptors may pin processes, so that there are always some left to serve with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::sys::limits;

/// What is never shared out: the runtime, the sources, the socket, the standard streams, and what a
/// look at a process opens for its length.
const RESERVED: usize = 24;
/// Of the rest, the share that may pin processes; the rest is for connections and files.
const SHARE_PERCENT: usize = 60;
/// Taken for the limit where it cannot be read: the lowest that systems come with.
const UNKNOWN_LIMIT: usize = 256;

/// The budget. What it runs out of is strength of identity, never sessions.
#[derive(Debug)]
pub struct FdBudget {
    limit: usize,
    used: AtomicUsize,
}

/// The right to hold one descriptor, given back on drop.
#[derive(Debug)]
pub struct Slot(Arc<FdBudget>);

impl FdBudget {
    /// A budget of so many descriptors.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// The usual share of what this process may open.
    pub fn from_limits() -> Arc<Self> {
        Self::new(share_of(open_file_limit()))
    }

    /// A slot, while there is one.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < self.limit).then_some(used + 1)
            })
            .is_ok()
            .then(|| Slot(self.clone()))
    }

    /// Slots in all.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Slots taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Descriptors that the processes' share leaves for everything else.
pub fn left_by_processes() -> usize {
    let limit = open_file_limit();
    limit.saturating_sub(RESERVED) - share_of(limit)
}

fn open_file_limit() -> usize {
    let Ok(limits) = limits::open_files() else {
        return UNKNOWN_LIMIT;
    };
    limits.current.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

fn share_of(limit: usize) -> usize {
    let limit = limit.saturating_sub(RESERVED);
    limit / 100 * SHARE_PERCENT + limit % 100 * SHARE_PERCENT / 100
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
