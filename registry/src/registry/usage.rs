//! What each user has in the registry.

use std::collections::BTreeMap;

use super::Registry;

/// What one user has in a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerUsage {
    /// How many live sessions.
    pub sessions: usize,
}

impl Registry {
    /// Returns what this user has in the registry.
    pub fn usage(&self, owner: u32) -> OwnerUsage {
        let sessions = self.table().owned(owner);
        OwnerUsage { sessions }
    }

    /// Returns what each user has in the registry who has sessions, by user.
    pub fn usage_by_owner(&self) -> BTreeMap<u32, OwnerUsage> {
        let table = self.table();
        let usage = |owner| OwnerUsage {
            sessions: table.owned(owner),
        };
        table.owners().map(|owner| (owner, usage(owner))).collect()
    }
}
