//! What each user has in the registry.

use std::collections::BTreeMap;

use super::Registry;
use crate::table::Table;

/// What one user has in a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerUsage {
    /// How many live sessions.
    pub sessions: usize,
    /// Their size, which [`Limits::bytes_per_owner`](crate::Limits::bytes_per_owner) limits.
    pub bytes: usize,
    /// How many live sessions it may have now.
    pub most_sessions: usize,
    /// What size they may have now.
    pub most_bytes: usize,
    /// How many events of his sessions the history keeps.
    pub events: usize,
}

impl Registry {
    /// Returns what this user has in the registry.
    pub fn usage(&self, owner: u32) -> OwnerUsage {
        self.usage_in(&self.table(), owner)
    }

    /// Returns what each user has in the registry who has sessions or events, by user.
    pub fn usage_by_owner(&self) -> BTreeMap<u32, OwnerUsage> {
        let table = self.table();
        let with_events = self.0.log.owners();
        table
            .owners()
            .all()
            .chain(with_events)
            .map(|owner| (owner, self.usage_in(&table, owner)))
            .collect()
    }

    fn usage_in(&self, table: &Table, owner: u32) -> OwnerUsage {
        let (sessions, bytes) = table.owners().holdings(owner);
        let (most_sessions, most_bytes) = table.most(owner);
        OwnerUsage {
            sessions,
            bytes,
            most_sessions,
            most_bytes,
            events: self.0.log.count(owner),
        }
    }
}
