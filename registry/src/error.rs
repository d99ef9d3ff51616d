//! Why a registration was refused. Nothing has been stored or replaced when one of these comes back;
//! what had outlived its age has been removed all the same.

/// The answer to "why was this session not stored?"
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The whole registry is full.
    #[error("the registry holds its limit of {limit} sessions")]
    TooManySessions {
        /// The ceiling.
        limit: usize,
    },
    /// This user's share is full.
    #[error("user {owner} holds the limit of {limit} sessions")]
    TooManyForOwner {
        /// The user.
        owner: u32,
        /// The ceiling.
        limit: usize,
    },
    /// The session id or the token belongs to another user's live session.
    #[error("a live session of another user holds this session id or token")]
    NotOwner,
    /// The token is that of a live session of another process; only its own process registers it
    /// again.
    #[error("a live session of another process uses this token")]
    TokenInUse,
    /// Strict replacement is on and the token is not the one of the live session.
    #[error("replacing this live session needs its own token")]
    NeedsOldToken,
}
