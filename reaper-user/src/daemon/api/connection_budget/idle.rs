//! The idle connections of each user, and the guard that keeps a connection from being one.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ConnectionSlot;
use crate::daemon::http::body::ResponseBody;

/// How long a connection may be idle before its first request without being closed for another: its
/// client has only just connected and has received no response yet.
pub(super) const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(500);

/// The idle connections of each user, in the order in which they became idle.
#[derive(Default)]
pub(super) struct IdleConnections {
    next_seq: u64,
    by_user: BTreeMap<u32, BTreeMap<u64, Candidate>>,
}

/// One idle connection, as the others see it.
struct Candidate {
    since: Instant,
    before_first_request: bool,
    close: Arc<Notify>,
}

/// One idle connection, as it sees itself.
pub(super) struct Idle {
    /// Its key among those of its user.
    pub(super) seq: u64,
    pub(super) since: Instant,
    pub(super) before_first_request: bool,
    /// When the first bytes of the next head arrived.
    pub(super) head_since: Option<Instant>,
}

impl IdleConnections {
    /// Adds a connection. It is notified on `close` when it is to close for another.
    pub(super) fn insert(&mut self, uid: u32, is_new: bool, close: &Arc<Notify>) -> Idle {
        let (seq, since) = (self.next_seq, Instant::now());
        self.next_seq += 1;
        let candidate = Candidate {
            since,
            before_first_request: is_new,
            close: close.clone(),
        };
        let of_user = self.by_user.entry(uid).or_default();
        of_user.insert(seq, candidate);
        Idle {
            seq,
            since,
            before_first_request: is_new,
            head_since: None,
        }
    }

    pub(super) fn remove(&mut self, uid: u32, seq: u64) {
        if let Some(of_user) = self.by_user.get_mut(&uid) {
            of_user.remove(&seq);
            if of_user.is_empty() {
                self.by_user.remove(&uid);
            }
        }
    }

    /// Returns the users that have idle connections.
    pub(super) fn users(&self) -> impl Iterator<Item = u32> {
        self.by_user.keys().copied()
    }

    /// Requests that a connection of one of these users closes: the longest idle one of the user
    /// with the most. Returns whether there is one.
    pub(super) fn close_longest_of_most_idle(&mut self, users: &BTreeSet<u32>) -> bool {
        let of_these = self.by_user.iter().filter(|(uid, _)| users.contains(uid));
        let mut of_these: Vec<_> = of_these.collect();
        of_these.sort_by_key(|(_, connections)| std::cmp::Reverse(connections.len()));
        let longest = of_these.into_iter().find_map(|(uid, connections)| {
            let mut closable = connections.iter().filter(|(_, idle)| idle.may_close());
            closable.next().map(|(seq, _)| (*uid, *seq))
        });
        let Some((uid, seq)) = longest else {
            return false;
        };
        let closed = self.by_user.get_mut(&uid);
        if let Some(closed) = closed.and_then(|connections| connections.remove(&seq)) {
            closed.close.notify_one();
        }
        self.remove(uid, seq);
        true
    }
}

impl Candidate {
    fn may_close(&self) -> bool {
        !self.before_first_request || self.since.elapsed() >= FIRST_REQUEST_WITHIN
    }
}

/// Keeps a connection marked as busy.
pub(in crate::daemon::api) struct BusyGuard(Arc<ConnectionSlot>);

impl BusyGuard {
    pub(super) fn new(slot: Arc<ConnectionSlot>) -> Self {
        Self(slot)
    }

    /// Keeps the connection busy until this body is written or dropped.
    pub(in crate::daemon::api) fn until_written(self, body: ResponseBody) -> BusyBody {
        BusyBody { body, _busy: self }
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.set_idle(false);
    }
}

/// A response body. Its connection is busy as long as it exists.
pub(in crate::daemon::api) struct BusyBody {
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
