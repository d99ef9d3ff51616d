//! The limits of the table: their changes, and the check of a registration against them.

use super::Table;
use crate::config::{Limits, Rules};
use crate::error::RegisterError;
use crate::lifetime::Lifetimes;
use crate::session::{NewSession, Session};
use crate::sharing::Claim;

impl Table {
    /// Changes the settings. Stored sessions keep their lifetimes, and stay beyond lower limits.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        let Rules {
            ttl,
            max_ttl,
            limits,
            strict_replace,
        } = rules;
        self.limits = limits;
        self.lifetimes = Lifetimes {
            default: ttl,
            max: max_ttl,
        };
        self.strict_replace = strict_replace;
    }

    /// Checks the limits as they are once the sessions that the registration replaces, all of the same
    /// owner, have been removed.
    pub(super) fn check_limits<'a, I: Iterator<Item = &'a Session>>(
        &self,
        new: &NewSession,
        replaced: impl Fn() -> I,
    ) -> Result<(), RegisterError> {
        let Limits {
            sessions, bytes, ..
        } = self.limits;
        let owner = new.owner;
        let (most, most_bytes) = self.most(owner);
        let (held, held_bytes) = self.owners.holdings(owner);
        let freed: usize = replaced().map(Session::weight).sum();
        let added = new.weight();
        if self.weight - freed + added > sessions {
            return Err(RegisterError::TooManySessions { limit: sessions });
        }
        // A share that has shrunk takes nothing back.
        let limit = most.max(held.min(self.limits.sessions_per_owner));
        if held - freed + added > limit {
            return Err(RegisterError::TooManyForOwner { owner, limit });
        }
        let freed: usize = replaced().map(|old| old.bytes).sum();
        let added = new.bytes();
        if self.bytes - freed + added > bytes {
            return Err(RegisterError::TooManyBytes { limit: bytes });
        }
        let limit = most_bytes.max(held_bytes.min(self.limits.bytes_per_owner));
        if held_bytes - freed + added > limit {
            return Err(RegisterError::TooManyBytesForOwner { owner, limit });
        }
        Ok(())
    }

    /// Returns how many sessions a user may have now, and how many bytes.
    pub(crate) fn most(&self, owner: u32) -> (usize, usize) {
        let Limits {
            sessions,
            sessions_per_owner,
            bytes,
            bytes_per_owner,
        } = self.limits;
        let Some(sharing) = &self.sharing else {
            return (sessions_per_owner, bytes_per_owner);
        };
        let share = |total, held: fn((usize, usize)) -> usize| {
            let others = self.owners.all().filter(|other| *other != owner);
            let others: Vec<_> = others
                .map(|other| (other, held(self.owners.holdings(other))))
                .collect();
            sharing(&Claim {
                owner,
                total,
                others: &others,
            })
        };
        (
            share(sessions, |(count, _)| count).min(sessions_per_owner),
            share(bytes, |(_, bytes)| bytes).min(bytes_per_owner),
        )
    }
}
