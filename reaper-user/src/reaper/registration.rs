//! What a caller registers, and what the reaper returns for it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use reaper_registry::{
    Details, Labels, Pid, Presence, RegisterError, Session, SessionId, StartTime, Token, Ttl,
};

use crate::sys::process_table::ProcessTable;
use crate::watch::identity::{AlreadyGone, WatchError};
use crate::watch::set::Watched;

/// A session that is to be registered for a process.
#[derive(Debug)]
pub struct Registration {
    pub(crate) id: SessionId,
    pub(crate) token: Token,
    pub(crate) pid: Pid,
    pub(crate) further: Vec<Pid>,
    pub(crate) owner: u32,
    pub(crate) details: Details,
    pub(crate) presence: Option<Presence>,
    pub(crate) ttl: Ttl,
}

impl Registration {
    /// A session with this id and token for the process that has this pid now.
    ///
    /// It belongs to the effective user of this program and lives as long as its process, unless the
    /// other methods change that. It replaces only the session of the same owner and id.
    pub fn new(id: SessionId, token: Token, pid: Pid) -> Self {
        Self {
            id,
            token,
            pid,
            further: Vec::new(),
            owner: rustix::process::geteuid().as_raw(),
            details: Details::default(),
            presence: None,
            ttl: Ttl::Process,
        }
    }

    /// Further processes: the session stays until the last of all has ended. Each is pinned and checked as the
    /// first one, and counts as one more session in the limits.
    #[must_use]
    pub fn further_pids(mut self, pids: impl IntoIterator<Item = Pid>) -> Self {
        self.further.extend(pids);
        self
    }

    /// The numeric user that the session belongs to.
    #[must_use]
    pub fn owner(mut self, uid: u32) -> Self {
        self.owner = uid;
        self
    }

    /// What the session says about itself. Stored as it is.
    #[must_use]
    pub fn details(mut self, details: Details) -> Self {
        self.details = details;
        self
    }

    /// Its labels, by which a reader selects sessions. Stored as they are. [`Self::details`] replaces them.
    #[must_use]
    pub fn labels(mut self, labels: Labels) -> Self {
        self.details.labels = labels;
        self
    }

    /// Its presence material.
    #[must_use]
    pub fn presence(mut self, presence: Presence) -> Self {
        self.presence = Some(presence);
        self
    }

    /// How long the session may stay, counted from the registration. The maximum of the registry
    /// limits it. The first look-up or sweep after that time removes the session.
    #[must_use]
    pub fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = ttl;
        self
    }
}

/// A process that is pinned: what is read of it is true of this very process, unless it has ended.
pub struct PinnedProcess<'a> {
    pub(crate) watched: &'a Watched,
    pub(crate) table: &'a dyn ProcessTable,
}

impl PinnedProcess<'_> {
    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.watched.pid
    }

    /// When it started. `None` where that could not be read.
    pub fn start_time(&self) -> Option<StartTime> {
        self.watched.start_time()
    }

    /// Returns a duplicate of its pidfd; `None` where none is held or no descriptor is free.
    pub fn pidfd(&self) -> Option<OwnedFd> {
        self.watched
            .with_pidfd(|pidfd| pidfd?.try_clone_to_owned().ok())
    }

    /// Returns whether it is a thread of the kernel, which does not end like a process.
    pub fn is_kernel_thread(&self) -> bool {
        self.watched.is_kernel_thread(self.table)
    }
}

impl fmt::Debug for PinnedProcess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedProcess")
            .field("pid", &self.pid())
            .field("start_time", &self.start_time())
            .finish_non_exhaustive()
    }
}

/// A session that was registered.
#[derive(Debug)]
#[non_exhaustive]
pub struct Registered {
    /// The session.
    pub session: Arc<Session>,
    /// Whether the session existed and was renewed: same token, session id, process, owner, mesh and labels.
    pub renewed: bool,
    /// How the process is identified: the weakest way, if there are several.
    pub identity: crate::IdentityStrength,
}

/// Why a registration was refused. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistrationError<Refusal = std::convert::Infallible> {
    /// The process ended before it could be pinned.
    #[error(transparent)]
    ProcessGone(AlreadyGone),
    /// The id is that of a thread, whose end is not the end of its process: register `process`.
    #[error("this is a thread of process {process}; register that one")]
    ThreadId {
        /// The process that the thread belongs to.
        process: Pid,
    },
    /// The caller's check refused the process.
    #[error("the process is refused")]
    Refused(Refusal),
    /// One of several processes was refused.
    #[error("pid {pid}: {reason}")]
    Member {
        /// Its pid.
        pid: Pid,
        /// Why.
        reason: Box<Self>,
    },
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] RegisterError),
}

impl<Refusal> RegistrationError<Refusal> {
    pub(super) fn of_member(self, pid: Pid) -> Self {
        Self::Member {
            pid,
            reason: Box::new(self),
        }
    }
}

impl<Refusal> From<WatchError> for RegistrationError<Refusal> {
    fn from(reason: WatchError) -> Self {
        match reason {
            WatchError::Gone(gone) => Self::ProcessGone(gone),
            WatchError::ThreadId { process } => Self::ThreadId { process },
        }
    }
}
