//! How often things have happened since the registry was built.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Registry;
use crate::hooks::Change;
use crate::removal::{Death, Removal, Source};

const SOURCES: [Source; 5] = [
    Source::Netlink,
    Source::Ebpf,
    Source::Pidfd,
    Source::Sweep,
    Source::Register,
];

/// Counters that only increase. One atomic addition for each change; the order among them is not kept.
/// In cache lines of their own, because look-ups read what is beside them.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Counters {
    registered: AtomicU64,
    renewed: AtomicU64,
    exited: [AtomicU64; SOURCES.len()],
    pid_reused: [AtomicU64; SOURCES.len()],
    expired: AtomicU64,
    replaced: AtomicU64,
    requested: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, change: &Change) {
        let counter = match change {
            Change::Registered { .. } => &self.registered,
            Change::Deregistered(_, removal) => self.of(removal),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_renewal(&self) {
        self.renewed.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, removal: &Removal) -> &AtomicU64 {
        match removal {
            Removal::Died(Death {
                source, pid_reused, ..
            }) => {
                let by_source = if *pid_reused {
                    &self.pid_reused
                } else {
                    &self.exited
                };
                &by_source[*source as usize]
            }
            Removal::Expired => &self.expired,
            Removal::Replaced => &self.replaced,
            Removal::Requested => &self.requested,
        }
    }
}

/// What a registry has done since it was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// How many sessions were stored, without renewals.
    pub registered: u64,
    /// How many registrations renewed a session.
    pub renewed: u64,
    /// How many sessions were removed, by cause and source: every cause with every source that it can
    /// have, also those that have not occurred.
    pub removed: Vec<Removed>,
}

/// How many sessions were removed for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// The name of the cause, as [`Removal::cause`] returns it.
    pub cause: &'static str,
    /// The source, if the process of the sessions has ended.
    pub source: Option<Source>,
    /// How many.
    pub count: u64,
}

impl Registry {
    /// Returns what this registry has done since it was built. Takes no lock, so counts of changes that
    /// are made meanwhile may be in it in part.
    pub fn totals(&self) -> Totals {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let of_deaths = [
            ("exited", &counters.exited),
            ("pid_reused", &counters.pid_reused),
        ];
        let of_deaths = of_deaths.into_iter().flat_map(|(cause, by_source)| {
            SOURCES.into_iter().zip(by_source).map(move |(source, it)| {
                let source = Some(source);
                let count = read(it);
                Removed {
                    cause,
                    source,
                    count,
                }
            })
        });
        let of_others = [
            ("expired", &counters.expired),
            ("replaced", &counters.replaced),
            ("requested", &counters.requested),
        ];
        let of_others = of_others.into_iter().map(|(cause, it)| Removed {
            cause,
            source: None,
            count: read(it),
        });
        Totals {
            registered: read(&counters.registered),
            renewed: read(&counters.renewed),
            removed: of_deaths.chain(of_others).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::removal::Evidence;

    #[test]
    fn every_source_and_every_cause_has_its_own_counter() {
        for (at, source) in SOURCES.into_iter().enumerate() {
            assert_eq!(source as usize, at);
        }
        let counters = Counters::default();
        let died = |source, pid_reused| {
            Removal::Died(Death {
                source,
                evidence: Evidence::Stat,
                pid_reused,
                exit: None,
                detection: None,
            })
        };
        let deaths = SOURCES
            .into_iter()
            .flat_map(|it| [died(it, false), died(it, true)]);
        let others = [Removal::Expired, Removal::Replaced, Removal::Requested];
        for removal in deaths.chain(others) {
            assert_eq!(counters.of(&removal).fetch_add(1, Ordering::Relaxed), 0);
        }
    }
}
