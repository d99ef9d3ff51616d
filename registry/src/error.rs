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
    /// A live session of another user has this session id or token, and the registration has
    /// [`Authority::Owner`](crate::Authority::Owner).
    #[error("a live session of another user holds this session id or token")]
    NotOwner,
    /// A live session of another process has this token. Only the process of that session may register
    /// the token again, with either [`Authority`](crate::Authority).
    #[error("a live session of another process uses this token")]
    TokenInUse,
    /// [`RegistryBuilder::strict_replace`](crate::RegistryBuilder::strict_replace) is on, and the
    /// token is not that of the live session with this id.
    #[error("replacing this live session requires its current token")]
    NeedsOldToken,
}
