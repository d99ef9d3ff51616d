//! The events that subscribers read.

pub(crate) mod log;
mod shares;
pub(crate) mod tombstones;

use std::fmt;
use std::sync::Arc;

use crate::removal::{Removal, Source};
use crate::session::Session;
use crate::time::Moment;

/// A session of up to this size has the weight of one event in the history; larger ones have more, so that
/// the memory of the history is bounded.
const BYTES_PER_WEIGHT: usize = 2_048;

/// One entry of the ordered history of a registry.
#[derive(Debug)]
pub struct Event {
    /// The position in the history. The first event has 1; every next one has one more.
    pub seq: u64,
    /// The time that was passed to the method that caused the event. It may be earlier than that of the
    /// event before, if two threads read the clock and then took the lock in the other order.
    pub at: Moment,
    /// What happened.
    pub kind: EventKind,
}

impl Event {
    /// Returns the owner of its session; `None` if it is about no session.
    pub fn owner(&self) -> Option<u32> {
        match &self.kind {
            EventKind::Registered(session) | EventKind::Deregistered(session, _) => {
                Some(session.owner)
            }
            EventKind::SourceState(_) | EventKind::Shutdown => None,
        }
    }

    fn weight(&self) -> usize {
        match &self.kind {
            EventKind::Registered(session) | EventKind::Deregistered(session, _) => {
                session.bytes.div_ceil(BYTES_PER_WEIGHT)
            }
            EventKind::SourceState(_) | EventKind::Shutdown => 1,
        }
    }
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// A session was stored. A renewal is no event.
    Registered(Arc<Session>),
    /// A session was removed. Occurs exactly once for every session that is removed.
    Deregistered(Arc<Session>, Removal),
    /// A source of exit events changed its state. A reader needs it to judge whether the absence of
    /// removals means that no process has ended.
    SourceState(SourceState),
    /// The owner of the registry is about to stop. The sessions remain.
    Shutdown,
}

/// How well a source of exit events works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceHealth {
    /// It works.
    Up,
    /// It works with a limitation, which [`SourceState::reason`] names.
    Degraded,
    /// It does not work.
    Down,
}

impl SourceHealth {
    /// Returns the name in JSON: `up`, `degraded` or `down`. `Display` writes the same.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for SourceHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The state of one source of exit events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// The source.
    pub source: Source,
    /// How well it works.
    pub health: SourceHealth,
    /// The reason for this state, for people: a sentence without a full stop. Empty for
    /// [`SourceHealth::Up`].
    pub reason: String,
}
