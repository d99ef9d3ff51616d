//! Who gets a place, and who loses one for it.

use std::task::{Context, Waker};

use super::*;
use crate::daemon::accounts::{Limit, Newcomers};

const OWNER: u32 = 1_000;

/// A budget of so many connections, of which one is kept for root and one for the owner.
fn budget(total: usize) -> Arc<ConnectionBudget> {
    budget_with(total, Duration::from_secs(30))
}

fn budget_with(total: usize, keep_alive: Duration) -> Arc<ConnectionBudget> {
    let limit = Limit {
        total,
        reserve: 1,
        per_user: None,
    };
    let accounts = Accounts::new(OWNER, Newcomers::Possible, [limit; 3]);
    ConnectionBudget::new(accounts, keep_alive)
}

/// An open connection.
struct Open {
    slot: Arc<ConnectionSlot>,
    _busy: Option<BusyGuard>,
}

impl Open {
    fn busy(slot: ConnectionSlot) -> Self {
        let slot = Arc::new(slot);
        let busy = Some(slot.busy());
        Self { slot, _busy: busy }
    }

    /// One that has had a request.
    fn idle(slot: ConnectionSlot) -> Self {
        let slot = Arc::new(slot);
        drop(slot.busy());
        Self { slot, _busy: None }
    }
}

/// Opens as many connections as this user's share allows.
async fn fill(
    budget: &Arc<ConnectionBudget>,
    uid: u32,
    open: impl Fn(ConnectionSlot) -> Open,
) -> Vec<Open> {
    let mut all = Vec::new();
    let usage = || budget.accounts.usage(uid, Resource::Connections);
    while usage().used < usage().limit {
        all.push(open(budget.admit(uid).await.unwrap()));
    }
    all
}

fn close_requested(slot: &ConnectionSlot) -> bool {
    let ending = std::pin::pin!(slot.ending());
    let mut cx = Context::from_waker(Waker::noop());
    ending.poll(&mut cx).is_ready()
}

/// Admits a connection of this user while those that are to close do so, as their tasks would.
async fn admit_while_closing(
    budget: &Arc<ConnectionBudget>,
    uid: u32,
    open: &mut Vec<Open>,
) -> Result<ConnectionSlot, Refused> {
    let mut admitting = std::pin::pin!(budget.admit(uid));
    loop {
        match timeout(Duration::from_millis(1), admitting.as_mut()).await {
            Ok(admitted) => return admitted,
            Err(_) => open.retain(|open| !close_requested(&open.slot)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_connection_is_closed_first_and_busy_ones_are_not() {
    let budget = budget(100);
    let mut slots = Vec::new();
    for _ in 0..3 {
        slots.push(Arc::new(budget.admit(7).await.unwrap()));
    }
    let busy = slots[0].busy();
    for at in [2, 1] {
        drop(slots[at].busy());
    }
    assert!(budget.close_longest_idle());
    let requested: Vec<_> = slots.iter().map(|slot| close_requested(slot)).collect();
    assert_eq!(requested, [false, false, true]);
    assert!(budget.close_longest_idle() && close_requested(&slots[1]));
    assert!(!budget.close_longest_idle());
    drop(busy);
    assert!(budget.close_longest_idle() && close_requested(&slots[0]));
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_has_time_for_its_first_request() {
    let budget = budget(100);
    let slot = budget.admit(7).await.unwrap();
    assert!(!budget.close_longest_idle());
    tokio::time::advance(idle::FIRST_REQUEST_WITHIN).await;
    assert!(budget.close_longest_idle() && close_requested(&slot));
}

#[tokio::test(start_paused = true)]
async fn a_user_at_its_limit_replaces_its_own_longest_idle_connection() {
    let budget = budget(42);
    let mut slots = fill(&budget, 7, Open::idle).await;
    let before = slots.len();
    let first = Arc::downgrade(&slots[0].slot);
    let admitted = admit_while_closing(&budget, 7, &mut slots).await.unwrap();
    assert_eq!(slots.len(), before - 1);
    assert!(first.upgrade().is_none());
    drop(admitted);
}

#[tokio::test(start_paused = true)]
async fn a_new_user_pushes_out_idle_connections_until_it_has_as_many() {
    let budget = budget(42);
    let mut first = fill(&budget, 7, Open::idle).await;
    assert_eq!(first.len(), 30);
    let mut second = Vec::new();
    while let Ok(admitted) = admit_while_closing(&budget, 8, &mut first).await {
        second.push(Open::busy(admitted));
    }
    // What is left is for the next user.
    assert_eq!((first.len(), second.len()), (17, 17));
    assert!(admit_while_closing(&budget, 9, &mut first).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_user_without_idle_connections_is_refused_and_root_and_the_owner_are_not() {
    let budget = budget(42);
    let mut slots = Vec::new();
    for uid in [7, 8, 9] {
        slots.push(fill(&budget, uid, Open::busy).await);
    }
    let began = Instant::now();
    assert!(budget.admit(7).await.is_err());
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "others must not wait for it"
    );
    assert!(budget.admit(0).await.is_ok());
    assert!(budget.admit(OWNER).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_longer_than_announced_and_a_slow_head_ends_it() {
    let budget = budget(42);
    let slot = Arc::new(budget.admit(7).await.unwrap());
    drop(slot.busy());
    let began = Instant::now();
    assert_eq!(slot.ending().await, Ending::Idle);
    assert_eq!(began.elapsed(), Duration::from_secs(32));

    let slot = Arc::new(budget.admit(7).await.unwrap());
    drop(slot.busy());
    let began = Instant::now();
    let incomplete = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        slot.is_incomplete();
    };
    let (ending, ()) = tokio::join!(slot.ending(), incomplete);
    assert_eq!(
        (ending, began.elapsed()),
        (Ending::SlowHead, Duration::from_secs(8))
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_waited_for_before_its_request_ends_in_time() {
    for seconds in [1, 30] {
        let budget = budget_with(42, Duration::from_secs(seconds));
        let slot = Arc::new(budget.admit(7).await.unwrap());
        let request = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let busy = slot.busy();
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(busy);
            Instant::now()
        };
        let ending = async { (slot.ending().await, Instant::now()) };
        let ((ending, ended), idle_since) = tokio::join!(ending, request);
        assert_eq!(ending, Ending::Idle);
        assert_eq!(ended - idle_since, Duration::from_secs(seconds + 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_does_not_end() {
    let budget = budget(42);
    let slot = Arc::new(budget.admit(7).await.unwrap());
    let busy = slot.busy();
    let ending = timeout(Duration::from_mins(10), slot.ending());
    assert!(ending.await.is_err());
    drop(busy);
    assert_eq!(slot.ending().await, Ending::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_freed_place_goes_to_the_next_connection() {
    let budget = budget(42);
    let mut slots = fill(&budget, 7, Open::busy).await;
    assert!(budget.admit(7).await.is_err());
    slots.pop();
    assert!(budget.admit(7).await.is_ok());
    assert_eq!(budget.idle().users().next(), None);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_gets_the_next_place_or_is_refused_in_time() {
    let budget = budget(42);
    let mut slots = fill(&budget, 7, Open::busy).await;
    let limit = Duration::from_millis(500);
    let began = Instant::now();
    assert!(budget.admit_within(7, limit).await.is_err());
    assert_eq!(began.elapsed(), limit);
    let ending = async {
        tokio::time::sleep(limit / 2).await;
        slots.pop();
    };
    let (admitted, ()) = tokio::join!(budget.admit_within(7, limit), ending);
    assert!(admitted.is_ok());
}
