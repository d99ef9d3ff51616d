//! What each user makes the daemon hold, and how much more it may hold: shares that shrink as other
//! users need theirs. Pure bookkeeping, without I/O and clocks.
//!
//! The rule is in [`share`]. Root and the daemon's own user are subject to it as all users are, and
//! each of the two has a reserve beside it, which is used first. So they are served whatever others
//! hold, and while they hold little they take nothing from the others' shares.
//!
//! A grant is never revoked: what a user holds beyond a share that has shrunk is kept until the user
//! gives it back. (Idle connections are the exception, and are closed by their own rule, in
//! `api/connection_budget.rs`.)

mod share;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use share::{Newcomers, of_registry};

/// What is charged to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Connections,
    /// Event streams. Each has a connection too.
    Streams,
    /// Requests that have started and have no response yet.
    Requests,
}

impl Resource {
    pub(crate) const ALL: [Self; 3] = [Self::Connections, Self::Streams, Self::Requests];

    /// Returns the name in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::Requests => "requests",
        }
    }

    /// Returns what it is called in sentences.
    const fn text(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Streams => "event streams",
            Self::Requests => "requests in progress",
        }
    }
}

/// The limits of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// All users together.
    pub(crate) total: usize,
    /// Of these, what is kept for root, and as much again for the daemon's own user.
    pub(crate) reserve: usize,
    /// The most that any one user may hold, root included. `None`: as much as the shares allow.
    pub(crate) per_user: Option<usize>,
}

/// The limits of all resources, in the order of [`Resource::ALL`].
pub(crate) type Limits = [Limit; Resource::ALL.len()];

/// A share is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) resource: Resource,
    pub(crate) uid: u32,
    /// What the user holds.
    pub(crate) used: usize,
    /// What the user may hold now.
    pub(crate) limit: usize,
    /// What all users may hold together.
    pub(crate) total: usize,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resource,
            uid,
            used,
            limit,
            total,
        } = self;
        let what = resource.text();
        write!(
            f,
            "user {uid} has {used} {what}; the share of this user is now {limit} of {total}"
        )
    }
}

/// What one user holds of one resource, and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) used: usize,
    /// What of that is beyond the user's reserve.
    pub(crate) shared: usize,
    pub(crate) limit: usize,
}

/// The accounts of all users that hold something.
#[derive(Debug)]
pub(crate) struct Accounts {
    owner: u32,
    /// Not in the books: the registry reads it under its own lock.
    others_may_come: AtomicBool,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    limits: Limits,
    /// Without the users that hold nothing.
    users: BTreeMap<u32, Account>,
    pools: [Pool; Resource::ALL.len()],
    /// Whose refusals have been logged. Bounded by the users of the system.
    logged: BTreeSet<(u32, Resource)>,
}

/// What one user holds, by resource.
type Account = [usize; Resource::ALL.len()];

/// What is held beyond the reserves.
#[derive(Clone, Copy, Debug, Default)]
struct Pool {
    used: usize,
    users: usize,
}

impl Accounts {
    /// Creates the accounts of a daemon that runs as `owner`.
    pub(crate) fn new(owner: u32, newcomers: Newcomers, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            owner,
            others_may_come: AtomicBool::new(newcomers == Newcomers::Possible),
            books: Mutex::new(Books {
                limits,
                users: BTreeMap::new(),
                pools: Default::default(),
                logged: BTreeSet::new(),
            }),
        })
    }

    /// Returns whether users other than root and the daemon's own can come.
    pub(crate) fn newcomers(&self) -> Newcomers {
        if self.others_may_come.load(Ordering::Relaxed) {
            Newcomers::Possible
        } else {
            Newcomers::None
        }
    }

    /// Changes the limits. What users hold already is kept, and is charged by the new reserves.
    pub(crate) fn set_limits(&self, newcomers: Newcomers, limits: Limits) {
        let mut books = self.books();
        let others_may_come = newcomers == Newcomers::Possible;
        self.others_may_come
            .store(others_may_come, Ordering::Relaxed);
        books.limits = limits;
        for resource in Resource::ALL {
            let beyond = books.users.iter().map(|(uid, account)| {
                let reserve = self.reserve(&books, *uid, resource);
                account[resource as usize].saturating_sub(reserve)
            });
            let beyond: Vec<_> = beyond.filter(|shared| *shared > 0).collect();
            books.pools[resource as usize] = Pool {
                used: beyond.iter().sum(),
                users: beyond.len(),
            };
        }
        books.logged.clear();
    }

    /// Charges one unit to the user, if the share allows it.
    pub(crate) fn try_charge(
        self: &Arc<Self>,
        uid: u32,
        resource: Resource,
    ) -> Result<Charge, Refused> {
        let mut books = self.books();
        let usage = self.usage_in(&books, uid, resource);
        if usage.used < usage.limit {
            return Ok(self.charge(&mut books, uid, resource));
        }
        let refused = Refused {
            resource,
            uid,
            used: usage.used,
            limit: usage.limit,
            total: books.limits[resource as usize].total,
        };
        if books.logged.insert((uid, resource)) {
            log::warn!("{refused}; further refusals of this kind are not logged");
        }
        Err(refused)
    }

    /// Charges one unit to the user if it then holds at most `most` and there is one left. For a
    /// unit that was given back for this purpose, whatever the share is.
    pub(crate) fn try_charge_within(
        self: &Arc<Self>,
        uid: u32,
        resource: Resource,
        most: usize,
    ) -> Option<Charge> {
        let mut books = self.books();
        let used = books.used(uid, resource);
        let is_left = used < self.reserve(&books, uid, resource)
            || books.pools[resource as usize].used < self.pool(&books, resource);
        (used < most && is_left).then(|| self.charge(&mut books, uid, resource))
    }

    /// Returns what the user holds of a resource, and what it may hold now.
    pub(crate) fn usage(&self, uid: u32, resource: Resource) -> Usage {
        self.usage_in(&self.books(), uid, resource)
    }

    /// Returns the users that hold something.
    pub(crate) fn users(&self) -> Vec<u32> {
        self.books().users.keys().copied().collect()
    }

    /// Returns the limits of a resource.
    pub(crate) fn limit(&self, resource: Resource) -> Limit {
        self.books().limits[resource as usize]
    }

    fn usage_in(&self, books: &Books, uid: u32, resource: Resource) -> Usage {
        let used = books.used(uid, resource);
        let reserve = self.reserve(books, uid, resource);
        let shared = used.saturating_sub(reserve);
        let others = books.pools[resource as usize].used - shared;
        let visible = self.pool(books, resource).saturating_sub(others);
        let users = self.active(books, uid, resource);
        let most = share::most(visible, users, self.newcomers());
        Usage {
            used,
            shared,
            limit: books.capped(resource, reserve + most),
        }
    }

    /// The number of users that hold something beyond their reserves, with this one.
    fn active(&self, books: &Books, uid: u32, resource: Resource) -> usize {
        let holds = books.used(uid, resource) > self.reserve(books, uid, resource);
        books.pools[resource as usize].users + usize::from(!holds)
    }

    fn reserve(&self, books: &Books, uid: u32, resource: Resource) -> usize {
        if uid == 0 || uid == self.owner {
            books.limits[resource as usize].reserve
        } else {
            0
        }
    }

    /// What is shared by the rule.
    fn pool(&self, books: &Books, resource: Resource) -> usize {
        let Limit { total, reserve, .. } = books.limits[resource as usize];
        let reserves = if self.owner == 0 { 1 } else { 2 };
        total.saturating_sub(reserves * reserve)
    }

    fn charge(self: &Arc<Self>, books: &mut Books, uid: u32, resource: Resource) -> Charge {
        let reserve = self.reserve(books, uid, resource);
        let used = &mut books.users.entry(uid).or_default()[resource as usize];
        *used += 1;
        if *used > reserve {
            let pool = &mut books.pools[resource as usize];
            pool.used += 1;
            pool.users += usize::from(*used == reserve + 1);
        }
        Charge {
            accounts: self.clone(),
            uid,
            resource,
        }
    }

    fn give_back(&self, uid: u32, resource: Resource) {
        let mut books = self.books();
        let reserve = self.reserve(&books, uid, resource);
        let Some(account) = books.users.get_mut(&uid) else {
            return;
        };
        account[resource as usize] -= 1;
        let left = account[resource as usize];
        if account.iter().all(|used| *used == 0) {
            books.users.remove(&uid);
        }
        if left >= reserve {
            let pool = &mut books.pools[resource as usize];
            pool.used -= 1;
            pool.users -= usize::from(left == reserve);
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn used(&self, uid: u32, resource: Resource) -> usize {
        let account = self.users.get(&uid);
        account.map_or(0, |account| account[resource as usize])
    }

    fn capped(&self, resource: Resource, most: usize) -> usize {
        let per_user = self.limits[resource as usize].per_user;
        per_user.map_or(most, |cap| most.min(cap))
    }
}

/// One unit of a resource, charged to a user. Given back on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    accounts: Arc<Accounts>,
    uid: u32,
    resource: Resource,
}

impl Charge {
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.accounts.give_back(self.uid, self.resource);
    }
}
