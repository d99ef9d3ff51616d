//! What a session hangs on if it is more than one process: each of its processes, and how it ended.

use std::sync::Arc;

use crate::process::{Process, ProcessId};
use crate::removal::Death;
use crate::session::Session;
use crate::time::Moment;

/// One of several processes that a session hangs on.
#[derive(Clone, Debug)]
pub struct Member {
    /// The process.
    pub process: Process,
    /// How and when it ended; `None` as long as it lives.
    pub end: Option<MemberEnd>,
}

/// The end of one of several processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberEnd {
    /// The time that was passed to the method that recorded it.
    pub at: Moment,
    /// How it ended, and what proved it.
    pub death: Death,
}

/// All processes of a session, in the order of its registration. Behind one pointer, so that a session of
/// one process is not larger for it.
#[derive(Clone, Debug)]
pub(crate) struct Members(Arc<Vec<Member>>);

impl Members {
    /// Returns `None` if there is only one process. Each process counts once.
    pub(crate) fn new(first: &Process, further: Vec<Process>) -> Option<Self> {
        if further.is_empty() {
            return None;
        }
        let mut members: Vec<Member> = Vec::with_capacity(1 + further.len());
        for process in std::iter::once(first.clone()).chain(further) {
            if members.iter().all(|it| it.process.id != process.id) {
                members.push(Member { process, end: None });
            }
        }
        Self::restore(members)
    }

    pub(crate) fn restore(members: Vec<Member>) -> Option<Self> {
        (members.len() > 1).then(|| Self(Arc::new(members)))
    }

    pub(crate) fn as_slice(&self) -> &[Member] {
        &self.0
    }

    /// Returns the same with the end of one process, unless that is recorded already.
    pub(crate) fn with_end(&self, process: ProcessId, end: MemberEnd) -> Self {
        let mut members = Vec::clone(&self.0);
        let living = members.iter_mut().filter(|it| it.end.is_none());
        for member in living.filter(|it| it.process.id == process) {
            member.end = Some(end);
        }
        Self(Arc::new(members))
    }
}

impl Session {
    /// Returns all processes that it hangs on if there are several, also those that have ended; empty if it
    /// hangs on [`Session::process`] alone. It stays until the last of them ends.
    pub fn members(&self) -> &[Member] {
        self.members.as_ref().map_or(&[], |all| all.as_slice())
    }

    /// Returns the processes that it still hangs on: the one, or the members that live.
    pub fn living(&self) -> impl Iterator<Item = &Process> {
        let members = self.members();
        let alone = members.is_empty().then_some(&self.process);
        let living = members.iter().filter(|it| it.end.is_none());
        alone.into_iter().chain(living.map(|it| &it.process))
    }

    /// Returns whether it still hangs on this process.
    pub fn hangs_on(&self, process: ProcessId) -> bool {
        self.living().any(|it| it.id == process)
    }

    /// Returns whether the other value is this one, or has followed from it by the ends of processes.
    pub(crate) fn is_same_registration(&self, other: &Self) -> bool {
        let of_one_renewal = || self.registered_at == other.registered_at && self.members.is_some();
        std::ptr::eq(self, other) || (self.entry == other.entry && of_one_renewal())
    }

    /// Returns how many sessions it counts as in the limits: one for each of its processes.
    pub fn weight(&self) -> usize {
        self.members().len().max(1)
    }
}
