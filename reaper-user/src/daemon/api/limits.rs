//! `/v1/limits`: what users hold and may hold, and the memory that this can take.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::connection::BUFFER;
use super::sessions::PIECE_MAX;
use super::wire::{LimitView, LimitsReport, UserLimits};
use super::{App, Peer};
use crate::daemon::accounts::{Accounts, Resource};
use crate::daemon::config::DaemonOptions;
use crate::daemon::http::framing::{BODY_MAX, HEAD_MAX};

/// The state of one connection beside its buffers: its task and timers.
const TASK: usize = 8 * 1024;
/// Sessions that have ended and are kept by events, or as those of tokens that were valid a minute ago: as
/// many of each, and more than these bytes for one count as several.
const ENDED: usize = 2 * 4_096;
const ENDED_BYTES: usize = 2 * 1024;

pub(super) fn limits(app: &App, peer: Peer) -> LimitsReport {
    let users = peer.is_root().then(|| {
        let in_registry = app.reaper.registry().usage_by_owner().into_keys();
        let users: BTreeSet<_> = app
            .accounts
            .users()
            .into_iter()
            .chain(in_registry)
            .collect();
        users.into_iter().map(|uid| of_user(app, uid)).collect()
    });
    LimitsReport {
        caller: charged_to(app, peer.uid, peer.account()),
        memory: Memory::of(&app.options(), &app.accounts).by_name(),
        users,
    }
}

/// Returns what this user holds and may hold.
pub(crate) fn of_user(app: &App, uid: u32) -> UserLimits {
    charged_to(app, uid, uid)
}

/// As [`of_user`], if connections, streams and requests are charged to another account.
fn charged_to(app: &App, uid: u32, account: u32) -> UserLimits {
    let charged = Resource::ALL.map(|resource| {
        let usage = app.accounts.usage(account, resource);
        let view = LimitView {
            used: usage.used,
            limit: usage.limit,
            total: app.accounts.limit(resource).total,
        };
        (resource.name(), view)
    });
    UserLimits {
        uid,
        limits: charged.into_iter().chain(in_registry(app, uid)).collect(),
    }
}

/// What the registry counts.
fn in_registry(app: &App, uid: u32) -> [(&'static str, LimitView); 2] {
    let usage = app.reaper.registry().usage(uid);
    let options = app.options();
    let sessions = LimitView {
        used: usage.sessions,
        limit: usage.most_sessions,
        total: options.max_sessions,
    };
    let bytes = LimitView {
        used: usage.bytes,
        limit: usage.most_bytes,
        total: options.max_bytes,
    };
    [("sessions", sessions), ("bytes", bytes)]
}

/// The memory that is used if every limit is reached, in bytes.
pub(crate) struct Memory {
    connections: usize,
    requests: usize,
    responses: usize,
    sessions: usize,
    ended: usize,
    /// The memory file has both once more.
    file: usize,
}

impl Memory {
    pub(crate) fn of(options: &DaemonOptions, accounts: &Accounts) -> Self {
        let total = |resource| accounts.limit(resource).total;
        let body = usize::try_from(BODY_MAX).unwrap_or(usize::MAX);
        Self {
            // A head that is checked, and what hyper has read and not yet written.
            connections: total(Resource::Connections) * (HEAD_MAX + 2 * BUFFER + TASK),
            requests: total(Resource::Requests) * body,
            // One piece of a list or a stream that is written, and one that is built.
            responses: total(Resource::Connections) * 2 * PIECE_MAX,
            sessions: options.max_bytes,
            ended: ENDED * ENDED_BYTES,
            file: options.max_bytes.saturating_add(ENDED * ENDED_BYTES),
        }
    }

    fn parts(&self) -> [(&'static str, usize); 6] {
        [
            ("connections", self.connections),
            ("requests", self.requests),
            ("responses", self.responses),
            ("sessions", self.sessions),
            ("ended", self.ended),
            ("file", self.file),
        ]
    }

    fn total(&self) -> usize {
        let parts = self.parts().into_iter().map(|(_, bytes)| bytes);
        parts.fold(0, usize::saturating_add)
    }

    fn by_name(&self) -> BTreeMap<&'static str, u64> {
        let parts = self.parts().into_iter().chain([("total", self.total())]);
        parts.map(|(name, bytes)| (name, bytes as u64)).collect()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        write!(
            f,
            "memory if all limits are reached: {} MiB",
            mib(self.total())
        )?;
        for (at, (name, bytes)) in self.parts().into_iter().enumerate() {
            let before = if at == 0 { " (" } else { ", " };
            write!(f, "{before}{name} {}", mib(bytes))?;
        }
        f.write_str(")")
    }
}
