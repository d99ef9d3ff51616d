//! Why a registration was refused.

/// The reason why [`Registry::register`](crate::Registry::register) did not store a session.
///
/// Nothing has been stored or replaced. Sessions that had expired by then have been removed anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The registry is full ([`Limits::sessions`](crate::Limits::sessions)).
    #[error("the registry holds its limit of {limit} sessions")]
    TooManySessions {
        /// The maximum number of sessions.
        limit: usize,
    },
    /// The user has too many sessions
    /// ([`Limits::sessions_per_owner`](crate::Limits::sessions_per_owner)).
    #[error("user {owner} holds the limit of {limit} sessions")]
    TooManyForOwner {
        /// The numeric user id.
        owner: u32,
        /// The maximum number of sessions of one user.
        limit: usize,
    },
    /// The live sessions take too much memory ([`Limits::bytes`](crate::Limits::bytes)).
    #[error("the sessions would take more than the limit of {limit} bytes")]
    TooManyBytes {
        /// The maximum size of all sessions.
        limit: usize,
    },
    /// The live sessions of the user take too much memory
    /// ([`Limits::bytes_per_owner`](crate::Limits::bytes_per_owner)).
    #[error("the sessions of user {owner} would take more than the limit of {limit} bytes")]
    TooManyBytesForOwner {
        /// The numeric user id.
        owner: u32,
        /// The maximum size of the sessions of one user.
        limit: usize,
    },
    /// A live session of another process or another user has this token. Only the process and the user of
    /// that session may register the token again.
    #[error("a live session of another process uses this token")]
    TokenInUse,
    /// [`RegistryBuilder::strict_replace`](crate::RegistryBuilder::strict_replace) is on, and the
    /// token is not that of the live session with this id.
    #[error("replacing this live session requires its current token")]
    NeedsOldToken,
    /// The registry is paused ([`Registry::pause`](crate::Registry::pause)).
    #[error("sessions cannot be changed at the moment")]
    Paused,
}
