//! Which connections are open, to which users, and which of them are idle.
//!
//! A connection is charged to its user. If the user's share, or the whole budget, is used up, an idle
//! connection is closed for the new one: the longest idle one of the user with the most idle ones. A
//! user can push out only connections of users that have more than it has, so that they end up with
//! the same; beyond that its new connection takes the place of its own longest idle one.

mod idle;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

pub(super) use idle::BusyGuard;
use idle::{Idle, IdleConnections};
pub(super) use turn::{Turn, Turns};

use crate::daemon::accounts::{Accounts, Charge, Refused, Resource};

/// How long a connection may take to close before the next one is closed as well, and how many are
/// tried. Few and short, because no other connection is accepted meanwhile.
const CLOSES_WITHIN: Duration = Duration::from_millis(50);
const CLOSED_FOR_ONE: usize = 3;
/// How long a new connection may take to send its first head, and any connection to complete a head
/// that it has begun.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How much longer a connection is kept than is announced: a client that counts from the arrival of
/// a response must not meet the close.
const KEPT_LONGER: Duration = Duration::from_secs(2);
/// How many requests of one user may start at the same time while other users send some too. A user
/// with no more connections than this never waits.
const STARTS_AT_ONCE: usize = 4;
/// For how long after a request of another user that is so. Turns cost a user some throughput.
const IN_TURNS_FOR: Duration = Duration::from_secs(1);

/// The open connections of all users.
pub(super) struct ConnectionBudget {
    accounts: Arc<Accounts>,
    idle: Mutex<IdleConnections>,
    /// Of each user, who may start a request.
    starts: Mutex<HashMap<u32, Weak<Semaphore>>>,
    /// The user of the last request, and when that was another one than the time before.
    last_request: Mutex<(u32, Option<Instant>)>,
    /// Notified when a connection has given its place back.
    freed: Notify,
    /// How long connections that are accepted from now on are announced to be kept.
    keep_alive: Mutex<Duration>,
}

/// The place of one connection, given back on drop.
pub(super) struct ConnectionSlot {
    budget: Arc<ConnectionBudget>,
    uid: u32,
    /// How long it is announced to be kept after a response.
    keep_alive: Duration,
    /// Notified when this connection is to close for another.
    close: Arc<Notify>,
    /// Notified when the deadline may be earlier than before.
    deadline_changed: Notify,
    /// `None` while it is busy. Locked only while the idle connections are locked, or alone.
    idle: Mutex<Option<Idle>>,
    /// How often it has become busy or idle.
    changes: AtomicU64,
    starts: Arc<Semaphore>,
    /// Given back before `freed` is notified.
    charge: Option<Charge>,
}

/// Why an idle connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was idle for too long, or another connection needs its place.
    Idle,
    /// Its head was not complete in time.
    SlowHead,
}

/// What a look at a connection shows.
enum Look {
    Ends(Ending),
    Again(Instant),
}

impl ConnectionBudget {
    /// Connections are kept for this long after a response, and a little longer.
    pub(super) fn new(accounts: Arc<Accounts>, keep_alive: Duration) -> Arc<Self> {
        Arc::new(Self {
            accounts,
            idle: Mutex::default(),
            starts: Mutex::default(),
            last_request: Mutex::default(),
            freed: Notify::new(),
            keep_alive: Mutex::new(keep_alive),
        })
    }

    /// Changes how long connections are kept that are accepted from now on.
    pub(super) fn set_keep_alive(&self, keep_alive: Duration) {
        *self
            .keep_alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = keep_alive;
    }

    /// Charges a new connection to its user. Closes idle connections for it, if that is needed and
    /// this user may push them out.
    pub(super) async fn admit(self: &Arc<Self>, uid: u32) -> Result<ConnectionSlot, Refused> {
        let refused = match self.accounts.try_charge(uid, Resource::Connections) {
            Ok(charge) => return Ok(self.slot(charge)),
            Err(refused) => refused,
        };
        for _ in 0..CLOSED_FOR_ONE {
            // Before the close is requested, so that it is not missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            // One may have been freed before that.
            if let Ok(charge) = self.accounts.try_charge(uid, Resource::Connections) {
                return Ok(self.slot(charge));
            }
            let Some(most) = self.make_room(uid) else {
                break;
            };
            let charging = async {
                loop {
                    freed.as_mut().await;
                    freed.set(self.freed.notified());
                    freed.as_mut().enable();
                    let connections = Resource::Connections;
                    if let Some(charge) = self.accounts.try_charge_within(uid, connections, most) {
                        return charge;
                    }
                }
            };
            if let Ok(charge) = timeout(CLOSES_WITHIN, charging).await {
                return Ok(self.slot(charge));
            }
        }
        Err(refused)
    }

    /// As [`Self::admit`], and waits for a place.
    pub(super) async fn admit_within(
        self: &Arc<Self>,
        uid: u32,
        limit: Duration,
    ) -> Result<ConnectionSlot, Refused> {
        let deadline = Instant::now() + limit;
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            let refused = match self.admit(uid).await {
                Ok(slot) => return Ok(slot),
                Err(refused) => refused,
            };
            // Places that are freed all the time must not keep it waiting for ever.
            if Instant::now() >= deadline || timeout_at(deadline, freed).await.is_err() {
                return Err(refused);
            }
        }
    }

    /// Requests that an idle connection closes for a new one of this user. Returns how many the user
    /// may then have, or `None` if there is no connection that it may push out.
    fn make_room(&self, uid: u32) -> Option<usize> {
        let usage = |uid| self.accounts.usage(uid, Resource::Connections);
        let own = usage(uid);
        let per_user = self.accounts.limit(Resource::Connections).per_user;
        let mut idle = self.idle();
        if per_user.is_none_or(|most| own.used < most) {
            let others = idle.users().filter(|other| *other != uid);
            // With just one more, the two would only change places.
            let richer = others.filter(|other| usage(*other).shared > own.shared + 1);
            let richer = richer.collect();
            if idle.close_longest_of_most_idle(&richer) {
                return Some(own.used + 1);
            }
        }
        let has_closed_own = idle.close_longest_of_most_idle(&[uid].into());
        has_closed_own.then_some(own.used)
    }

    /// Requests that the longest idle connection of the user with the most idle ones closes. Returns
    /// whether there was one.
    pub(super) fn close_longest_idle(&self) -> bool {
        let mut idle = self.idle();
        let all = idle.users().collect();
        idle.close_longest_of_most_idle(&all)
    }

    fn slot(self: &Arc<Self>, charge: Charge) -> ConnectionSlot {
        let uid = charge.uid();
        let slot = ConnectionSlot {
            budget: self.clone(),
            uid,
            keep_alive: *self
                .keep_alive
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            close: Arc::default(),
            deadline_changed: Notify::new(),
            idle: Mutex::default(),
            changes: AtomicU64::new(0),
            starts: self.starts_of(uid),
            charge: Some(charge),
        };
        slot.set_idle(true);
        slot
    }

    fn starts_of(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(starts) = users.get(&uid).and_then(Weak::upgrade) {
            return starts;
        }
        users.retain(|_, starts| starts.strong_count() > 0);
        let starts = Arc::new(Semaphore::new(STARTS_AT_ONCE));
        users.insert(uid, Arc::downgrade(&starts));
        starts
    }

    /// Notes a request of this user. Returns whether another user has sent one lately.
    fn is_contended_by(&self, uid: u32) -> bool {
        let last = self.last_request.lock();
        let mut last = last.unwrap_or_else(PoisonError::into_inner);
        let (last_uid, changed_at) = &mut *last;
        if *last_uid != uid {
            *last_uid = uid;
            *changed_at = Some(Instant::now());
        }
        changed_at.is_some_and(|at| at.elapsed() < IN_TURNS_FOR)
    }

    fn idle(&self) -> MutexGuard<'_, IdleConnections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSlot {
    /// Waits until a request of this user may start.
    ///
    /// The runtime runs what is ready in its order, whichever user it belongs to: without this, a request
    /// waits behind those of each of another user's connections. Here few requests of one user are
    /// in that queue at a time, and the others wait in a queue of their user. So a request of another
    /// user waits for these few at most, and no request waits while a processor is free. It counts
    /// requests and not time, because no request runs for long without a pause.
    pub(super) async fn may_start(&self) {
        if self.takes_turns() {
            let start = self.starts.acquire().await;
            // Behind what is ready now.
            yield_now().await;
            drop(start);
        }
    }

    /// Returns whether other users have sent requests lately, and this one has more connections than may
    /// start requests at once.
    fn takes_turns(&self) -> bool {
        let accounts = &self.budget.accounts;
        self.budget.is_contended_by(self.uid)
            && accounts.usage(self.uid, Resource::Connections).used > STARTS_AT_ONCE
    }

    /// Charges a request to the user.
    pub(super) fn begin_request(&self) -> Result<Charge, Refused> {
        let accounts = &self.budget.accounts;
        accounts.try_charge(self.uid, Resource::Requests)
    }

    /// Returns when this connection is to end, and why. A busy one does not end.
    pub(super) async fn ending(&self) -> Ending {
        loop {
            let again = match self.look() {
                Look::Ends(ending) => return ending,
                Look::Again(at) => at,
            };
            tokio::select! {
                () = self.close.notified() => return Ending::Idle,
                () = self.deadline_changed.notified() => {}
                () = sleep_until(again) => {}
            }
        }
    }

    /// Looks whether the connection is over, or when it may be. No timer is set for each request:
    /// while a request can change the deadline, the next look is no later than any new one.
    fn look(&self) -> Look {
        let kept_idle = self.keep_alive + KEPT_LONGER;
        let now = Instant::now();
        let soon = now + kept_idle.min(HEAD_WITHIN);
        let (deadline, ending, again) = match &*self.idle_state() {
            None => return Look::Again(soon),
            Some(idle) => match idle.head_since {
                Some(since) => (since + HEAD_WITHIN, Ending::SlowHead, soon),
                None if idle.before_first_request => (idle.since + HEAD_WITHIN, Ending::Idle, soon),
                None => (idle.since + kept_idle, Ending::Idle, idle.since + kept_idle),
            },
        };
        if deadline <= now {
            Look::Ends(ending)
        } else {
            Look::Again(deadline.min(again))
        }
    }

    /// Returns how long the connection is announced to be kept after a response.
    pub(super) fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    pub(super) fn is_busy(&self) -> bool {
        self.idle_state().is_none()
    }

    /// Returns how often the connection has become busy or idle.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Bytes have arrived, and more are awaited before the connection changes: for a head, if it is
    /// idle.
    pub(super) fn is_incomplete(&self) {
        if let Some(idle) = &mut *self.idle_state()
            && idle.head_since.is_none()
        {
            idle.head_since = Some(Instant::now());
            self.deadline_changed.notify_one();
        }
    }

    /// Marks the connection as busy until the guard is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> BusyGuard {
        self.clear_idle();
        BusyGuard::new(self.clone())
    }

    fn set_idle(&self, before_first_request: bool) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        let mut idle = self.budget.idle();
        *self.idle_state() = Some(idle.insert(self.uid, before_first_request, &self.close));
    }

    fn clear_idle(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        let mut idle = self.budget.idle();
        if let Some(own) = self.idle_state().take() {
            idle.remove(self.uid, own.seq);
        }
    }

    fn idle_state(&self) -> MutexGuard<'_, Option<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.clear_idle();
        drop(self.charge.take());
        self.budget.freed.notify_waiters();
    }
}
