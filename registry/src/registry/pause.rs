//! A pause, during which nothing changes: for the hand-over of the state to another process, which may
//! still fail. And the events that belong to no session, some of which wait for its end.

use std::sync::{MutexGuard, PoisonError};

use super::Registry;
use crate::events::{EventKind, SourceState};
use crate::time::Moment;

impl Registry {
    /// Refuses every change from now on, until [`Self::end_pause`]: registrations fail
    /// ([`RegisterError::Paused`](crate::RegisterError::Paused)), nothing is removed, and no event is
    /// appended. Reading goes on. A change that has begun is complete when this returns.
    pub fn pause(&self) {
        let _no_change = self.table();
        self.paused().get_or_insert_default();
    }

    /// Ends a pause. What was to be removed meanwhile must be removed again by the caller; source states
    /// are published now.
    pub fn end_pause(&self) {
        let waiting = {
            let _no_change = self.table();
            self.paused().take()
        };
        for (state, at) in waiting.into_iter().flatten() {
            self.publish_source_state(state, at);
        }
    }

    /// Returns whether changes are refused now.
    pub fn is_paused(&self) -> bool {
        self.paused().is_some()
    }

    /// Appends an [`EventKind::SourceState`] event.
    ///
    /// While the registry is paused, it waits for the end of the pause.
    pub fn publish_source_state(&self, state: SourceState, now: Moment) {
        {
            let table = self.table();
            if let Some(waiting) = &mut *self.paused() {
                waiting.push((state, now));
                return;
            }
            let kind = std::iter::once(EventKind::SourceState(state));
            self.append(&table, (&[], &[]), kind, now);
        }
        self.wake_readers();
    }

    /// Appends an [`EventKind::Shutdown`] event, unless it is paused. The registry remains usable.
    pub fn publish_shutdown(&self, now: Moment) {
        {
            let table = self.table();
            if self.is_paused() {
                return;
            }
            let kind = std::iter::once(EventKind::Shutdown);
            self.append(&table, (&[], &[]), kind, now);
        }
        self.wake_readers();
    }

    pub(super) fn paused(&self) -> MutexGuard<'_, Option<Vec<(SourceState, Moment)>>> {
        self.0.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
