//! The rule by which users share a resource.
//!
//! A user may hold a share `s` of a pool of which `r` is left, if
//!
//! ```text
//! s <= (r + s) / A(n)        A(n) = n + 1/3
//! ```
//!
//! where `r + s` is the pool without what others hold, and `n` the number of users that hold some of
//! it, this one included. dbus-broker has the same rule with `A(n) = n + 1`
//! (<https://github.com/bus1/dbus-broker/blob/main/src/util/user.c>), by which a user that is alone
//! gets half. Here it gets three quarters, because being alone is the common case; the price is a
//! smaller guarantee in a crowd.
//!
//! What it guarantees in a pool of `P`, whatever the others do and in whatever order: of `n` users
//! each gets `3 P / ((3n - 2) (3n + 1))`, which is about `P / 3n²`.
//!
//! Proof: sort the users by their last grant. At that time, at least `j` users were active for the
//! `j`-th, and the `j - 1` before it had at least what they have now. So
//! `s_j <= (P - s_1 - .. - s_(j-1)) / (j + 1/3)`, and by induction `m` users leave at least
//! `P / (3m + 1)`. With `m = n - 1` the rule gives the `n`-th user its guarantee of that.
//!
//! A user that has nothing may take one unit as long as there is one, where its share would be
//! rounded down to nothing. That changes no guarantee of one unit or more: only a share that is
//! smaller than one is exceeded.

use reaper_registry::Claim;

use crate::daemon::api::listener::SocketAccess;
use crate::daemon::config::DaemonOptions;

/// Whether users other than root and the daemon's own can come. Those two have their reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newcomers {
    Possible,
    /// Nothing has to be left for them: `A(n) = n`.
    None,
}

impl Newcomers {
    /// Returns whether other users can come through the socket, or over TCP, where any user can.
    pub(crate) fn with(options: &DaemonOptions) -> Self {
        let is_private = SocketAccess::of(options) == SocketAccess::Private;
        if is_private && options.tcp_address().is_none() {
            Self::None
        } else {
            Self::Possible
        }
    }
}

/// Returns the largest share of a user, of what is visible to it: what is left and what it holds.
pub(super) fn most(visible: usize, users: usize, newcomers: Newcomers) -> usize {
    let share = match newcomers {
        Newcomers::Possible => visible.saturating_mul(3) / (3 * users + 1),
        Newcomers::None => visible / users,
    };
    share.max(1).min(visible)
}

/// The part of the sessions, and of their bytes, that is kept for root, and as much again for the daemon's
/// own user.
const RESERVED_PART: usize = 16;

/// Returns the same rule for what the registry counts. A user that is alone may hold all that is not
/// reserved, because a limit for one user is stated beside it, which is a small part of the whole by
/// default.
pub(crate) fn of_registry(
    daemon: u32,
    newcomers: impl Fn() -> Newcomers,
) -> impl Fn(&Claim<'_>) -> usize {
    move |claim| {
        let each = claim.total / RESERVED_PART;
        let reserve = |uid| if uid == 0 || uid == daemon { each } else { 0 };
        let reserves = if daemon == 0 { each } else { 2 * each };
        let shared = claim.others.iter();
        let shared = shared.map(|(uid, held)| held.saturating_sub(reserve(*uid)));
        let (others, active) = shared.fold((0, 0), |(sum, users), shared| {
            (sum + shared, users + usize::from(shared > 0))
        });
        let visible = (claim.total - reserves).saturating_sub(others);
        let most = match active {
            0 => visible,
            _ => most(visible, active + 1, newcomers()),
        };
        reserve(claim.owner) + most
    }
}

/// Returns what each of this many users can be sure of.
#[cfg(test)]
pub(super) fn guaranteed(pool: usize, users: usize) -> usize {
    3 * pool / ((3 * users - 2) * (3 * users + 1))
}
