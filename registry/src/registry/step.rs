//! The end of each change, under the table's lock: its events, the journal, and the keys to wipe.

use std::sync::Arc;

use super::Registry;
use crate::events::{Event, EventKind};
use crate::hooks::Change;
use crate::journal::{Changes, Counters};
use crate::session::Session;
use crate::table::Table;
use crate::time::Moment;

impl Registry {
    /// Appends the events of a step, writes the step to the journal, and wipes the keys of what ended.
    pub(super) fn record(&self, table: &mut Table, changes: &[Change], now: Moment) {
        let renewed = table.take_renewed();
        if changes.is_empty() && renewed.is_none() {
            return;
        }
        let (mut stored, mut ended) = (Vec::new(), Vec::new());
        if let Some((old, new)) = renewed {
            stored.push(new);
            ended.push(old);
        }
        for change in changes {
            match change {
                Change::Registered { session, .. } => stored.push(session.clone()),
                Change::Deregistered(session, _) => ended.push(session.clone()),
            }
        }
        let kinds = changes.iter().map(|change| match change {
            Change::Registered { session, .. } => EventKind::Registered(session.clone()),
            Change::Deregistered(session, removal) => {
                EventKind::Deregistered(session.clone(), *removal)
            }
        });
        let events = self.append(table, (&stored, &ended), kinds, now);
        // Not before: after a restart the former state may be the one that counts. Readers may keep a
        // value for any time.
        for session in &ended {
            session.wipe_secret_key();
        }
        for event in events {
            if let EventKind::Deregistered(session, _) = &event.kind {
                self.tombstones().insert(*session.digest(), event.clone());
            }
        }
    }

    /// Appends these events, and writes them and what was stored and ended to the journal.
    pub(super) fn append(
        &self,
        table: &Table,
        (stored, ended): (&[Arc<Session>], &[Arc<Session>]),
        kinds: impl Iterator<Item = EventKind>,
        now: Moment,
    ) -> Vec<Arc<Event>> {
        let appended = self.0.log.append(kinds, now, |batch| {
            if let Some(journal) = &self.0.journal {
                journal.commit(&Changes {
                    stored,
                    ended,
                    appended: &batch.appended,
                    dropped: &batch.dropped,
                    counters: Counters {
                        next_entry: table.last_entry().0 + 1,
                        ..batch.counters
                    },
                });
            }
        });
        appended.into_iter().map(|it| it.event).collect()
    }
}
