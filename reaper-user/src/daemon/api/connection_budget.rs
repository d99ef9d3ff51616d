//! The budget of connections, and which of the open ones are idle. When the budget is used up, the
//! connection that has been idle longest is closed for a new one.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::daemon::http::body::ResponseBody;

/// How long a connection may be idle before its first request without being closed for another: its
/// client has only just connected and has received no response yet.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(500);
/// How long a connection may take to close before the next one is closed as well.
const CLOSES_WITHIN: Duration = Duration::from_millis(50);

/// The budget of connections.
pub(super) struct ConnectionBudget {
    free: Arc<Semaphore>,
    idle: Mutex<IdleConnections>,
}

/// The idle connections, in the order in which they became idle.
#[derive(Default)]
struct IdleConnections {
    next_seq: u64,
    by_seq: BTreeMap<u64, Idle>,
}

struct Idle {
    since: Instant,
    before_first_request: bool,
    close: Arc<Notify>,
}

/// The slot of one connection, given back on drop.
pub(super) struct ConnectionSlot {
    budget: Arc<ConnectionBudget>,
    close: Arc<Notify>,
    /// Its key among the idle connections while it is idle.
    idle_seq: Mutex<Option<u64>>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionBudget {
    pub(super) fn new(connections: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(connections)),
            idle: Mutex::default(),
        })
    }

    /// Waits for a slot and closes idle connections for it, one at a time. Cancel-safe.
    pub(super) async fn take(self: &Arc<Self>) -> ConnectionSlot {
        loop {
            if self.free.available_permits() == 0 {
                self.close_longest_idle();
            }
            let free = self.free.clone().acquire_owned();
            let Ok(permit) = timeout(CLOSES_WITHIN, free).await else {
                continue;
            };
            let slot = ConnectionSlot {
                budget: self.clone(),
                close: Arc::default(),
                idle_seq: Mutex::default(),
                _permit: permit.expect("the semaphore is never closed"),
            };
            slot.set_idle(true);
            return slot;
        }
    }

    /// Requests that the connection which has been idle longest closes. Returns whether there was
    /// one.
    pub(super) fn close_longest_idle(&self) -> bool {
        let mut idle = self.idle();
        let longest = idle.by_seq.iter().find(|(_, idle)| {
            !idle.before_first_request || idle.since.elapsed() >= FIRST_REQUEST_WITHIN
        });
        let Some(seq) = longest.map(|(seq, _)| *seq) else {
            return false;
        };
        if let Some(closed) = idle.by_seq.remove(&seq) {
            closed.close.notify_one();
        }
        true
    }

    fn idle(&self) -> MutexGuard<'_, IdleConnections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSlot {
    /// Returns once this connection is to close for another.
    pub(super) async fn close_requested(&self) {
        self.close.notified().await;
    }

    /// Marks the connection as busy until the guard is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> BusyGuard {
        self.clear_idle();
        BusyGuard(self.clone())
    }

    fn set_idle(&self, before_first_request: bool) {
        let mut idle = self.budget.idle();
        let seq = idle.next_seq;
        idle.next_seq += 1;
        let entry = Idle {
            since: Instant::now(),
            before_first_request,
            close: self.close.clone(),
        };
        idle.by_seq.insert(seq, entry);
        *self.idle_seq() = Some(seq);
    }

    fn clear_idle(&self) {
        let mut idle = self.budget.idle();
        if let Some(seq) = self.idle_seq().take() {
            idle.by_seq.remove(&seq);
        }
    }

    /// Locked only while the idle connections are locked.
    fn idle_seq(&self) -> MutexGuard<'_, Option<u64>> {
        self.idle_seq.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.clear_idle();
    }
}

/// Keeps a connection marked as busy.
pub(super) struct BusyGuard(Arc<ConnectionSlot>);

impl BusyGuard {
    /// Keeps the connection busy until this body is written or dropped.
    pub(super) fn until_written(self, body: ResponseBody) -> BusyBody {
        BusyBody { body, _busy: self }
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.set_idle(false);
    }
}

/// A response body. Its connection is busy as long as it exists.
pub(super) struct BusyBody {
    body: ResponseBody,
    _busy: BusyGuard,
}

impl Body for BusyBody {
    type Data = <ResponseBody as Body>::Data;
    type Error = <ResponseBody as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close_requested(slot: &ConnectionSlot) -> bool {
        let requested = std::pin::pin!(slot.close_requested());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        requested.poll(&mut cx).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_is_closed_first_and_busy_ones_are_not() {
        let budget = ConnectionBudget::new(3);
        let mut slots = Vec::new();
        for _ in 0..3 {
            slots.push(Arc::new(budget.take().await));
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
        let budget = ConnectionBudget::new(1);
        let slot = budget.take().await;
        assert!(!budget.close_longest_idle());
        tokio::time::advance(FIRST_REQUEST_WITHIN).await;
        assert!(budget.close_longest_idle() && close_requested(&slot));
    }

    #[tokio::test(start_paused = true)]
    async fn a_freed_slot_goes_to_the_next_connection() {
        let budget = ConnectionBudget::new(1);
        let first = budget.take().await;
        let taking = async {
            let _second = budget.take().await;
        };
        let closing = async {
            first.close_requested().await;
            drop(first);
        };
        tokio::join!(taking, closing);
        assert!(budget.idle().by_seq.is_empty());
    }
}
