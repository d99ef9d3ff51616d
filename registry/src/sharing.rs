//! How users share the limits of a registry, where that is more than a limit for each.

/// A question: how much of one limit, the sessions or the bytes, may a user hold now?
///
/// Passed to the function of [`RegistryBuilder::share_by`](crate::RegistryBuilder::share_by).
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The user.
    pub owner: u32,
    /// What all users may hold together.
    pub total: usize,
    /// The other users that hold something, and how much.
    pub others: &'a [(u32, usize)],
}

pub(crate) type Sharing = Box<dyn Fn(&Claim<'_>) -> usize + Send + Sync>;
