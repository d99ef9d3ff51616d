//! Which sessions hang on a process: a link for each, until the process ends or the session is removed.

use std::sync::Arc;

use super::Table;
use crate::hooks::Change;
use crate::members::MemberEnd;
use crate::process::ProcessId;
use crate::removal::{Death, Removal};
use crate::session::{EntryId, Session};
use crate::time::Moment;

impl Table {
    pub(super) fn link_processes(&mut self, session: &Session) {
        let links = session.living().map(|it| (it.id, session.entry));
        self.by_process.extend(links);
    }

    pub(super) fn unlink_process(&mut self, process: ProcessId, entry: EntryId) {
        if self.by_process.remove(&(process, entry)) {
            self.released.push(process);
        }
    }

    /// Ends the process for up to `max` of the sessions that hang on it, those first that were stored first:
    /// removes those that hang on no other one. Returns how many there were.
    pub(crate) fn remove_process(
        &mut self,
        process: ProcessId,
        death: Death,
        now: Moment,
        max: usize,
        changes: &mut Vec<Change>,
    ) -> usize {
        let entries: Vec<_> = self.entries_of(process).take(max).collect();
        let end = MemberEnd { at: now, death };
        for entry in &entries {
            if !self.end_member(*entry, process, end) {
                self.remove(*entry, Removal::Died(death), changes);
            }
        }
        entries.len()
    }

    /// Notes the end of one of several processes. Returns whether the session hangs on another one that lives.
    fn end_member(&mut self, entry: EntryId, process: ProcessId, end: MemberEnd) -> bool {
        let session = self.sessions.get(&entry);
        let Some(session) = session.filter(|it| it.members.is_some()).cloned() else {
            return false;
        };
        self.unlink_process(process, entry);
        let successor = Arc::new(session.with_end(process, end));
        self.displace(&session);
        self.link(successor.clone());
        let lives_on = successor.living().next().is_some();
        self.succeeded.push((session, successor));
        lives_on
    }

    pub(crate) fn sessions_of(&self, process: ProcessId) -> Vec<Arc<Session>> {
        self.entries_of(process)
            .filter_map(|entry| self.sessions.get(&entry).cloned())
            .collect()
    }

    fn entries_of(&self, process: ProcessId) -> impl Iterator<Item = EntryId> {
        let range = (process, EntryId(0))..=(process, EntryId(u64::MAX));
        self.by_process.range(range).map(|(_, entry)| *entry)
    }
}
