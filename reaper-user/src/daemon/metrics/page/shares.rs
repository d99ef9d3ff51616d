//! What users hold of what is limited. The values of single users are for readers that see all of them,
//! and of the users with the fullest shares only, so that the page stays short.

use std::collections::BTreeSet;
use std::fmt;

use super::writer::Writer;
use crate::daemon::api::App;
use crate::daemon::api::limits;
use crate::daemon::api::wire::{LimitView, UserLimits};

/// How many users are shown.
const MAX_USERS: usize = 20;
/// Root has a share of everything, also where it holds nothing.
const ROOT: u32 = 0;

pub(super) fn write(out: &mut Writer<'_>, app: &App, sees_users: bool) -> fmt::Result {
    let in_registry = app.reaper.registry().usage_by_owner().into_keys();
    let uids = app
        .accounts
        .users()
        .into_iter()
        .chain(in_registry)
        .chain([ROOT]);
    let uids: BTreeSet<u32> = uids.collect();
    let users: Vec<_> = uids
        .into_iter()
        .map(|uid| limits::of_user(app, uid))
        .collect();
    let all = totals(app, &users);
    let used = all.iter().map(|it| ([("resource", it.resource)], it.used));
    out.gauges(
        "reaperd_share_used",
        "What all users hold of a limited resource",
        used,
    )?;
    let limit = all.iter().map(|it| ([("resource", it.resource)], it.limit));
    out.gauges(
        "reaperd_share_limit",
        "What all users together may hold of it",
        limit,
    )?;
    let fullest = resources(&users).map(|name| {
        let of_users = users.iter().map(|user| ratio(&user.limits[name]));
        ([("resource", name)], of_users.fold(0.0, f64::max))
    });
    out.gauges(
        "reaperd_fullest_user_share_ratio",
        "Of the user that has used most of what it may hold now: the part that is used",
        fullest,
    )?;
    if sees_users {
        single_users(out, users)?;
    }
    Ok(())
}

fn single_users(out: &mut Writer<'_>, mut users: Vec<UserLimits>) -> fmt::Result {
    let fullest = |user: &UserLimits| user.limits.values().map(ratio).fold(0.0, f64::max);
    users.sort_by(|a, b| fullest(b).total_cmp(&fullest(a)));
    users.truncate(MAX_USERS);
    let by_user = |value: fn(&LimitView) -> usize| {
        let values = users.iter().flat_map(|user| {
            let of_user = user.limits.iter();
            of_user.map(|(name, view)| {
                let labels = [
                    ("resource", (*name).to_owned()),
                    ("uid", user.uid.to_string()),
                ];
                (labels, value(view))
            })
        });
        values.collect::<Vec<_>>()
    };
    out.gauges(
        "reaperd_user_share_used",
        "What a user holds of a limited resource; for root, of the 20 users with the fullest shares",
        by_user(|view| view.used),
    )?;
    out.gauges(
        "reaperd_user_share_limit",
        "What that user may hold of it now",
        by_user(|view| view.limit),
    )
}

/// What all users hold of a resource, and may hold.
struct Total {
    resource: &'static str,
    used: usize,
    limit: usize,
}

fn totals(app: &App, users: &[UserLimits]) -> Vec<Total> {
    let budget = &app.reaper.watched().budget;
    let pidfds = Total {
        resource: "pidfds",
        used: budget.used(),
        limit: budget.limit(),
    };
    let of_users = resources(users).map(|resource| Total {
        resource,
        used: users.iter().map(|user| user.limits[resource].used).sum(),
        limit: users[0].limits[resource].total,
    });
    of_users.chain([pidfds]).collect()
}

/// The names of the resources. Every user has the same ones.
fn resources(users: &[UserLimits]) -> impl Iterator<Item = &'static str> {
    users[0].limits.keys().copied()
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(view: &LimitView) -> f64 {
    view.used as f64 / view.limit.max(1) as f64
}
