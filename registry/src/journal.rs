//! What a registry needs so that its state outlives the process: where each change is written, and the
//! state from which it starts again. Where and how that is stored is the caller's concern.

use std::fmt;
use std::sync::Arc;

use crate::events::Event;
use crate::members::Member;
use crate::presence::{Attestation, SecretKey};
use crate::process::Process;
use crate::session::{Details, EntryId, Session, SessionId};
use crate::time::Moment;

/// Gets every change of a registry, so that the registry can be built again from what it has written.
///
/// It is called under the locks of the table and of the history: after the change was made in memory,
/// before its events can be read, before a removed secret key is wiped, and before the method that made
/// the change returns. So nothing that was answered is missing. It must be quick, and must not
/// call the registry.
pub trait Journal: Send + Sync {
    /// Writes these changes in one step: what is read back has all of them or none.
    fn commit(&self, changes: &Changes<'_>);
}

/// One step of a registry.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    /// These values are live from now on. A renewed session is a new value with the entry id of the
    /// former one, and so is one of which one of several processes has ended. A value may also be among
    /// those that ended: it lasted for this step only.
    pub stored: &'a [Arc<Session>],
    /// These are not live any more: removed, or replaced by a new value. Events may still refer to them.
    pub ended: &'a [Arc<Session>],
    /// The new events that are kept.
    pub appended: &'a [Appended],
    /// Former events that are not kept any more.
    pub dropped: &'a [Arc<Event>],
    /// The counters after this step.
    pub counters: Counters,
}

/// An event of the history, with the position of the one before it of the same owner.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The event.
    pub event: Arc<Event>,
    /// [`Event::seq`] of the former event of the same owner (or of those of no session), or a later
    /// number if that one is not known any more; 0 if there was none.
    pub previous: u64,
}

/// The numbers of a registry that never go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The next [`EntryId`].
    pub next_entry: u64,
    /// The next [`Event::seq`].
    pub next_seq: u64,
    /// The last event that is not kept any more; 0 if none.
    pub dropped: u64,
    /// The same among the events of owners of which none is kept.
    pub forgotten: u64,
}

/// The state of a registry at the end of one step; the input of
/// [`RegistryBuilder::restore`](crate::RegistryBuilder::restore).
#[derive(Debug, Default)]
pub struct State {
    /// The live sessions.
    pub sessions: Vec<Arc<Session>>,
    /// The history. Events refer to live sessions and to ended ones.
    pub events: Vec<Appended>,
    /// The counters.
    pub counters: Counters,
}

/// A session as it was written, to build it again.
pub struct SavedSession {
    /// [`Session::digest_bytes`].
    pub digest: [u8; 16],
    /// The bytes of [`Session::token_prefix`].
    pub token_prefix: [u8; 4],
    /// [`Session::expires_at`].
    pub expires_at: Option<Moment>,
    /// [`Session::registered_at`].
    pub registered_at: Moment,
    /// [`Session::started_at`].
    pub started_at: Moment,
    /// [`Session::entry`].
    pub entry: EntryId,
    /// [`Session::id`].
    pub id: SessionId,
    /// [`Session::process`].
    pub process: Process,
    /// [`Session::members`].
    pub members: Vec<Member>,
    /// [`Session::owner`].
    pub owner: u32,
    /// [`Session::details`].
    pub details: Details,
    /// [`Session::presence`].
    pub presence: Option<(Box<str>, Attestation)>,
    /// [`Session::bytes`].
    pub bytes: usize,
    /// The secret key in the memory where it has been all the time. `None` for a session that is not
    /// live.
    pub secret_key: Option<SecretKey>,
}

impl fmt::Debug for SavedSession {
    /// Writes what may be listed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedSession")
            .field("entry", &self.entry)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
