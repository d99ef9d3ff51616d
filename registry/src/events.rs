//! What subscribers are told.

pub(crate) mod log;
pub(crate) mod tombstones;

use std::sync::Arc;

use crate::removal::{Removal, Source};
use crate::session::Session;
use crate::time::Moment;

/// One entry of the ordered history.
#[derive(Debug)]
pub struct Event {
    /// Position in the history; the first event is 1, and there are no holes.
    pub seq: u64,
    /// When it happened.
    pub at: Moment,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// A session was stored.
    Registered(Arc<Session>),
    /// A session was removed; comes once for every one that was stored.
    Deregistered(Arc<Session>, Removal),
    /// A source of exit events changed its state. It stands in the same history because it says
    /// how much the silence about removals can be trusted.
    SourceState(SourceState),
    /// The registry's owner is about to stop.
    Shutdown,
}

/// How well a source of exit events works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceHealth {
    /// As intended.
    Up,
    /// It works with a limit that the reason names.
    Degraded,
    /// It does not work.
    Down,
}

impl SourceHealth {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// The state of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// Which source.
    pub source: Source,
    /// How well it works.
    pub health: SourceHealth,
    /// Why, in a sentence without a full stop; empty when all is well.
    pub reason: String,
}
