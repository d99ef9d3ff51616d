//! Which events a stream has.

use std::collections::BTreeSet;

use reaper_registry::{EntryId, Event, EventKind, Session, SessionId};

use super::super::selection::Selection;
use super::super::sse;

/// The events that this reader sees.
pub(super) struct Filter {
    /// Whose sessions it sees; `None`: those of all users.
    pub(super) owner: Option<u32>,
    /// `None`: all names. `gap`, `snapshot` and `shutdown` are always sent, unless there is no name.
    pub(super) names: Option<BTreeSet<&'static str>>,
    /// The session that the reader presented. The stream ends with it.
    pub(super) own: Option<EntryId>,
    pub(super) id: Option<SessionId>,
    pub(super) selection: Selection,
}

impl Filter {
    /// Returns whether the reader sees nothing at all.
    pub(super) fn is_silent(&self) -> bool {
        self.names.as_ref().is_some_and(BTreeSet::is_empty)
    }

    pub(super) fn shows(&self, event: &Event) -> bool {
        if self.is_silent() {
            return false;
        }
        let by_name = self
            .names
            .as_ref()
            .is_none_or(|names| names.contains(sse::name_of(event)));
        match &event.kind {
            EventKind::Registered(session) | EventKind::Deregistered(session, _) => {
                by_name && self.shows_session(session)
            }
            EventKind::Shutdown => true,
            // Events that belong to no session.
            _ => by_name && self.own.is_none() && self.id.is_none(),
        }
    }

    pub(super) fn shows_session(&self, session: &Session) -> bool {
        self.owner.is_none_or(|owner| owner == session.owner)
            && self.own.is_none_or(|own| own == session.entry)
            && self.id.as_ref().is_none_or(|id| *id == session.id)
            && self.selection.shows(session)
    }

    /// Returns whether the session that the reader presented ends with this event.
    pub(super) fn ends_with(&self, event: &Event) -> bool {
        matches!(&event.kind, EventKind::Deregistered(session, _) if Some(session.entry) == self.own)
    }
}
