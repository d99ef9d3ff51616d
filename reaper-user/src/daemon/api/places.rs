//! The places for connections, and which of those that have one wait for a request. When all are
//! taken, the connection that has waited longest is closed for one that comes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::daemon::http::body::Answer;

/// How long a connection may wait before its first request without being closed for another: its
/// client has only just connected and has had no answer yet.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(500);
/// How long a connection gets to close before the next one has to.
const CLOSES_WITHIN: Duration = Duration::from_millis(50);

/// All places.
pub(super) struct Places {
    free: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

/// The connections that wait for a request, in the order in which they began to.
#[derive(Default)]
struct Idle {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    since: Instant,
    is_first: bool,
    leave: Arc<Notify>,
}

/// The place of one connection, given back on drop.
pub(super) struct Place {
    places: Arc<Places>,
    leave: Arc<Notify>,
    /// Its number among those that wait.
    waits_as: Mutex<Option<u64>>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count)),
            idle: Mutex::default(),
        })
    }

    /// Waits for a place and closes waiting connections for it, one at a time. Cancel-safe.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            if self.free.available_permits() == 0 {
                self.close_longest_idle();
            }
            let free = self.free.clone().acquire_owned();
            let Ok(permit) = timeout(CLOSES_WITHIN, free).await else {
                continue;
            };
            let place = Place {
                places: self.clone(),
                leave: Arc::default(),
                waits_as: Mutex::default(),
                _permit: permit.expect("the semaphore is never closed"),
            };
            place.wait(true);
            return place;
        }
    }

    /// Has the connection closed that has waited longest. Returns whether there was one.
    pub(super) fn close_longest_idle(&self) -> bool {
        let mut idle = self.idle();
        let longest = idle.waiting.iter().find(|(_, waiting)| {
            !waiting.is_first || waiting.since.elapsed() >= FIRST_REQUEST_WITHIN
        });
        let Some(number) = longest.map(|(number, _)| *number) else {
            return false;
        };
        if let Some(closed) = idle.waiting.remove(&number) {
            closed.leave.notify_one();
        }
        true
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Returns once this connection is to close for another.
    pub(super) async fn leave(&self) {
        self.leave.notified().await;
    }

    /// Marks the connection as busy until the answer is dropped.
    pub(super) fn work(self: &Arc<Self>) -> Work {
        self.stop_waiting();
        Work(self.clone())
    }

    fn wait(&self, is_first: bool) {
        let mut idle = self.places.idle();
        let number = idle.next;
        idle.next += 1;
        let waiting = Waiting {
            since: Instant::now(),
            is_first,
            leave: self.leave.clone(),
        };
        idle.waiting.insert(number, waiting);
        *self.waits_as() = Some(number);
    }

    fn stop_waiting(&self) {
        let mut idle = self.places.idle();
        if let Some(number) = self.waits_as().take() {
            idle.waiting.remove(&number);
        }
    }

    /// Taken while the list of those that wait is.
    fn waits_as(&self) -> MutexGuard<'_, Option<u64>> {
        self.waits_as.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

/// One request under way.
pub(super) struct Work(Arc<Place>);

impl Work {
    /// Lasts as long as the body of the answer.
    pub(super) fn until_written(self, answer: Answer) -> Answering {
        Answering {
            answer,
            _work: self,
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.wait(false);
    }
}

/// An answer, whose connection is busy until it is written.
pub(super) struct Answering {
    answer: Answer,
    _work: Work,
}

impl Body for Answering {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.get_mut().answer).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_to_leave(place: &Place) -> bool {
        let leaving = std::pin::pin!(place.leave());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        leaving.poll(&mut cx).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_waited_longest_goes_first_and_the_busy_ones_stay() {
        let places = Places::new(3);
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(Arc::new(places.take().await));
        }
        let busy = taken[0].work();
        for at in [2, 1] {
            drop(taken[at].work());
        }
        assert!(places.close_longest_idle());
        let left: Vec<_> = taken.iter().map(|place| is_to_leave(place)).collect();
        assert_eq!(left, [false, false, true]);
        assert!(places.close_longest_idle() && is_to_leave(&taken[1]));
        assert!(!places.close_longest_idle());
        drop(busy);
        assert!(places.close_longest_idle() && is_to_leave(&taken[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_just_connected_is_left_time_for_its_request() {
        let places = Places::new(1);
        let place = places.take().await;
        assert!(!places.close_longest_idle());
        tokio::time::advance(FIRST_REQUEST_WITHIN).await;
        assert!(places.close_longest_idle() && is_to_leave(&place));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_up_goes_to_the_one_that_waits() {
        let places = Places::new(1);
        let first = places.take().await;
        let waiting = async {
            let _second = places.take().await;
        };
        let leaving = async {
            first.leave().await;
            drop(first);
        };
        tokio::join!(waiting, leaving);
        assert!(places.idle().waiting.is_empty());
    }
}
