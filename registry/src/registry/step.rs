//! One change of the table: under its lock the events, the journal, the keys to wipe and the queue of
//! hooks; after it the readers and the hooks.

use std::sync::Arc;

use super::Registry;
use crate::events::{Event, EventKind};
use crate::hooks::Change;
use crate::journal::{Changes, Counters};
use crate::session::Session;
use crate::table::Table;
use crate::time::Moment;

impl Registry {
    pub(super) fn wake_readers(&self) {
        for wake in self.0.log.wakers() {
            self.0.hooks.contain(wake);
        }
    }

    /// The only function that changes the table; returns `None` while it is paused. Under the lock: mutates, appends the events and queues
    /// the hooks. After it: wakes the readers, releases and runs the hooks.
    pub(super) fn mutate<T>(
        &self,
        now: Moment,
        mutation: impl FnOnce(&mut Table, &mut Vec<Change>) -> T,
    ) -> Option<T> {
        let mut changes = Vec::new();
        let (outcome, released) = {
            let mut table = self.table();
            if self.is_paused() {
                return None;
            }
            let outcome = mutation(&mut table, &mut changes);
            self.record(&mut table, &changes, now);
            for change in &changes {
                self.0.hooks.queue(change);
            }
            (outcome, table.take_released())
        };
        if !changes.is_empty() {
            self.wake_readers();
        }
        for process in released {
            for release in &self.0.on_released {
                self.0.hooks.contain(|| release(process));
            }
        }
        if !changes.is_empty() {
            self.release(&changes);
            self.run_hooks(changes);
        }
        Some(outcome)
    }

    fn release(&self, changes: &[Change]) {
        for change in changes {
            if let Change::Deregistered(session, _) = change {
                for release in &self.0.on_removed {
                    self.0.hooks.contain(|| release(session));
                }
            }
        }
    }

    fn run_hooks(&self, changes: Vec<Change>) {
        match &self.0.run_hooks {
            Some(runner) if !self.0.hooks.is_empty() => {
                let registry = self.clone();
                runner(Box::new(move || registry.0.hooks.run(&changes)));
            }
            _ => self.0.hooks.run(&changes),
        }
    }

    /// Appends the events of a step, writes the step to the journal, and wipes the keys of what ended.
    fn record(&self, table: &mut Table, changes: &[Change], now: Moment) {
        let succeeded = table.take_succeeded();
        if changes.is_empty() && succeeded.is_empty() {
            return;
        }
        let (mut stored, mut ended) = (Vec::new(), Vec::new());
        for (old, new) in succeeded {
            stored.push(new);
            ended.push(old);
        }
        for change in changes {
            self.0.counters.count(change);
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
