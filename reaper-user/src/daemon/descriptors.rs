//! How the daemon divides its open descriptors. What it needs for itself is reserved; of the rest,
//! one share pins processes and the other serves connections.

use std::fmt;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::daemon::accounts::{Limit, Limits};
use crate::daemon::config::DaemonOptions;
use crate::engine::Sources;
use crate::sys::limits;
use crate::watch::fd_budget::{
    CONNECTIONS_PERCENT, FDS_PER_CHECK, UNKNOWN_LIMIT, number, open_below, open_file_limit,
    percent, reserved,
};

/// Fewer connections are not enough for some event streams and some requests.
pub(crate) const MIN_CONNECTIONS: usize = 8;
/// More connections are of no use: further clients wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1_024;
/// Connections that are kept for root, and as many for the daemon's own user: an eighth, within
/// these bounds.
const RESERVE: (usize, usize) = (1, 8);
/// Event streams leave as many connections to requests, whichever user opens them, and at least this many:
/// a few clients can then send requests at once.
const FOR_REQUESTS: usize = 4;
/// More requests in progress are of no use. Each may have a whole body in memory.
const MAX_REQUESTS: usize = 256;

/// The limit of open descriptors is too low for the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of open descriptors is {limit}, and at least {needed} are needed here")]
pub struct TooFewDescriptors {
    pub limit: usize,
    pub needed: usize,
}

/// How the daemon divides its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
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
    /// Returns the shares of a daemon with these options and this many worker threads. Call it
    /// before the daemon opens anything: what is open already is counted as reserved.
    pub(crate) fn of_daemon(
        options: &DaemonOptions,
        workers: usize,
    ) -> Result<Self, TooFewDescriptors> {
        let limit = open_file_limit();
        let reserved = reserved(&options.sources, workers, open_below(limit));
        Self::of(limit, reserved, options.max_connections)
    }

    fn of(
        limit: usize,
        reserved: usize,
        max_connections: Option<usize>,
    ) -> Result<Self, TooFewDescriptors> {
        let needed = reserved + MIN_CONNECTIONS;
        let Some(spare) = limit.checked_sub(needed) else {
            return Err(TooFewDescriptors { limit, needed });
        };
        let rest = spare + MIN_CONNECTIONS;
        let max = max_connections.unwrap_or(MAX_CONNECTIONS);
        let connections =
            percent(rest, CONNECTIONS_PERCENT).clamp(MIN_CONNECTIONS, max.max(MIN_CONNECTIONS));
        Ok(Self {
            limit,
            reserved,
            processes: rest - connections,
            connections,
            streams: connections - reserve_of(connections).max(FOR_REQUESTS),
        })
    }

    /// Returns the shares with another maximum of connections. There can be no more than at the start,
    /// because what connections did not get then went to processes.
    pub(crate) fn with_max_connections(self, max: Option<usize>) -> Self {
        let most = max.unwrap_or(usize::MAX).max(MIN_CONNECTIONS);
        let connections = self.connections.min(most);
        Self {
            connections,
            streams: connections - reserve_of(connections).max(FOR_REQUESTS),
            ..self
        }
    }

    /// Returns what users may hold of these shares.
    pub(crate) fn limits(&self, options: &DaemonOptions) -> Limits {
        let reserve = reserve_of(self.connections);
        let limit = |total, reserve, per_user| Limit {
            total,
            reserve,
            per_user,
        };
        [
            limit(self.connections, reserve, options.max_connections_per_uid),
            // Half, so that streams do not take the whole reserve from requests.
            limit(
                self.streams,
                reserve.div_ceil(2),
                options.max_streams_per_uid,
            ),
            limit(self.connections.min(MAX_REQUESTS), reserve, None),
        ]
    }
}

fn reserve_of(connections: usize) -> usize {
    let (fewest, most) = RESERVE;
    (connections / 8).clamp(fewest, most)
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

/// Returns the lowest limit at which a daemon with these sources starts.
pub fn minimum(sources: &Sources) -> usize {
    reserved(sources, 1, 0) + MIN_CONNECTIONS
}

/// Returns how many worker threads the daemon should have: one per CPU, and fewer where the
/// descriptors for their checks would exceed a quarter of what the minimum leaves.
pub(crate) fn worker_threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    // The daemon raises its soft limit to the hard one.
    let limit = limits::open_files().map_or(UNKNOWN_LIMIT, |limits| number(limits.maximum));
    let spare = limit.saturating_sub(minimum(&Sources::default()));
    cpus.min(1 + spare / 4 / FDS_PER_CHECK)
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
            let shares = Shares::of(limit, reserved(&sources, 1, 0), None).unwrap();
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
            assert!(connections - streams >= FOR_REQUESTS, "{shares:?}");
        }
    }

    #[test]
    fn an_error_below_the_minimum_has_the_limit_and_the_need() {
        let sources = Sources::only([]);
        let least = minimum(&sources);
        let refused = Shares::of(least - 1, reserved(&sources, 1, 0), None).unwrap_err();
        let expected = TooFewDescriptors {
            limit: least - 1,
            needed: least,
        };
        assert_eq!(refused, expected);
    }
}
