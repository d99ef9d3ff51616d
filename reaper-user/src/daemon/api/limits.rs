//! `/v1/limits`: what users hold and may hold, and the memory that this can take.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::connection::BUFFER;
use super::events::FRAME_SIZE;
use super::sessions::LIST_BUDGET_KIB;
use super::wire::{LimitView, LimitsReport, UserLimits};
use super::{App, Peer};
use crate::daemon::accounts::{Accounts, Resource};
use crate::daemon::config::DaemonOptions;
use crate::daemon::http::framing::{BODY_MAX, HEAD_MAX};

/// The state of one connection beside its buffers: its task and timers.
const TASK: usize = 8 * 1024;
/// The largest session: its fields at their limits, and its places in the indexes.
const SESSION_MAX: usize = 16 * 1024;
/// Events in the log, each of which can keep a session that has ended.
const EVENTS: usize = 4_096;

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
        caller: of_user(app, peer.uid),
        memory: Memory::of(&app.options, &app.accounts).by_name(),
        users,
    }
}

fn of_user(app: &App, uid: u32) -> UserLimits {
    let charged = Resource::ALL.map(|resource| {
        let usage = app.accounts.usage(uid, resource);
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
fn in_registry(app: &App, uid: u32) -> [(&'static str, LimitView); 1] {
    let usage = app.reaper.registry().usage(uid);
    let sessions = LimitView {
        used: usage.sessions,
        limit: app.options.max_sessions_per_uid,
        total: app.options.max_sessions,
    };
    [("sessions", sessions)]
}

/// The memory that is used if every limit is reached, in bytes.
pub(crate) struct Memory {
    connections: usize,
    requests: usize,
    streams: usize,
    lists: usize,
    sessions: usize,
    events: usize,
}

impl Memory {
    pub(crate) fn of(options: &DaemonOptions, accounts: &Accounts) -> Self {
        let total = |resource| accounts.limit(resource).total;
        let body = usize::try_from(BODY_MAX).unwrap_or(usize::MAX);
        Self {
            // A head that is checked, and what hyper has read and not yet written.
            connections: total(Resource::Connections) * (HEAD_MAX + 2 * BUFFER + TASK),
            requests: total(Resource::Requests) * body,
            // One frame that is written and one that is built.
            streams: total(Resource::Streams) * 2 * FRAME_SIZE,
            lists: LIST_BUDGET_KIB as usize * 1_024,
            sessions: options.max_sessions.saturating_mul(SESSION_MAX),
            events: EVENTS * SESSION_MAX,
        }
    }

    fn parts(&self) -> [(&'static str, usize); 6] {
        [
            ("connections", self.connections),
            ("requests", self.requests),
            ("streams", self.streams),
            ("lists", self.lists),
            ("sessions", self.sessions),
            ("events", self.events),
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
