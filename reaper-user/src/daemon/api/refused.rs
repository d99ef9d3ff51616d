//! Connections for which there is no place: they wait a moment for one, outside of the loop that
//! accepts connections, and then get a response. It is written without a parser: the request is read
//! as far as it has arrived, and answered unseen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use zeroize::Zeroizing;

use super::connection_budget::{ConnectionBudget, ConnectionSlot};
use super::stream::ClientStream;
use crate::daemon::http::problem::Problem;

/// How many wait at the same time, beside one of root and one of the daemon's own user. More are closed at
/// once. `fd_budget.rs` reserves their descriptors.
const SHARED: usize = 4;
/// How many of these one user may have.
const PER_USER: usize = 2;
/// How long a connection waits for a place: longer than ordinary requests take.
const PLACE_WITHIN: Duration = Duration::from_millis(500);
/// How long the request may take. A client sends it right after it has connected.
const REQUEST_WITHIN: Duration = Duration::from_millis(100);

/// Where connections wait for a place.
pub(super) struct WaitingRoom {
    owner: u32,
    /// How many connections of each user wait.
    waiting: Mutex<BTreeMap<u32, usize>>,
}

/// A place in the waiting room.
pub(super) struct Waiting {
    room: Arc<WaitingRoom>,
    uid: u32,
}

impl WaitingRoom {
    /// The waiting room of a daemon that runs as `owner`.
    pub(super) fn new(owner: u32) -> Arc<Self> {
        Arc::new(Self {
            owner,
            waiting: Mutex::default(),
        })
    }

    /// Returns a place for a connection of this user, if there is one.
    pub(super) fn enter(self: &Arc<Self>, uid: u32) -> Option<Waiting> {
        let mut waiting = self.waiting();
        let beyond_reserve = |uid: u32, count: usize| {
            let reserve = usize::from(uid == 0 || uid == self.owner);
            count.saturating_sub(reserve)
        };
        let of_all = |waiting: &BTreeMap<u32, usize>| {
            let shared = waiting.iter();
            shared
                .map(|(uid, count)| beyond_reserve(*uid, *count))
                .sum::<usize>()
        };
        let count = waiting.get(&uid).copied().unwrap_or(0) + 1;
        let shared = beyond_reserve(uid, count);
        if shared > 0 && (shared > PER_USER || of_all(&waiting) == SHARED) {
            return None;
        }
        waiting.insert(uid, count);
        Some(Waiting {
            room: self.clone(),
            uid,
        })
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.room.waiting();
        if let Some(count) = waiting.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.uid);
            }
        }
    }
}

impl Waiting {
    /// Waits for a place among the served. Without one, responds and returns the response's problem.
    pub(super) async fn admit(
        self,
        stream: ClientStream,
        budget: &Arc<ConnectionBudget>,
    ) -> Result<(ClientStream, ConnectionSlot), Problem> {
        match budget.admit_within(self.uid, PLACE_WITHIN).await {
            Ok(slot) => Ok((stream, slot)),
            Err(refused) => {
                // A client that still writes, or whose bytes are unread at the close, may miss the
                // response.
                if timeout(REQUEST_WITHIN, stream.readable()).await.is_ok() {
                    let mut request = Zeroizing::new([0; 4 * 1024]);
                    drop(stream.try_read(request.as_mut()));
                }
                let problem = Problem::from(refused);
                refuse(stream, &problem);
                Err(problem)
            }
        }
    }
}

/// Sends the problem and closes the connection.
pub(super) fn refuse(stream: ClientStream, problem: &Problem) {
    // The socket buffer of a new connection is empty, so that this is written whole.
    drop(stream.try_write(&response(problem)));
}

fn response(problem: &Problem) -> Vec<u8> {
    let (status, body) = (problem.status(), problem.to_json());
    let mut response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         connection: close\r\nretry-after: {}\r\n\r\n",
        body.len(),
        problem.retry_after().unwrap_or_default(),
    )
    .into_bytes();
    response.extend_from_slice(&body);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::daemon::accounts::{Refused, Resource};

    #[test]
    fn users_who_wait_leave_places_to_each_other_to_root_and_to_the_owner() {
        let room = WaitingRoom::new(1_000);
        let all = |uid: u32| -> Vec<_> { std::iter::from_fn(|| room.enter(uid)).collect() };
        let first = all(2_001);
        let second = all(2_002);
        assert_eq!((first.len(), second.len(), all(2_003).len()), (2, 2, 0));
        let kept = [all(0), all(1_000)];
        assert!(kept.iter().all(|places| places.len() == 1));
        drop(first);
        assert_eq!(all(2_003).len(), 2, "what is given back can be taken");
        drop((second, kept));
        assert_eq!(all(0).len(), 3);
        assert!(room.waiting().is_empty());
    }

    #[tokio::test]
    async fn a_refused_connection_gets_a_whole_response_with_the_limit() {
        let (mut client, server) = tokio::net::UnixStream::pair().unwrap();
        let server = ClientStream::Unix(server);
        let refused = Refused {
            resource: Resource::Connections,
            uid: 7,
            used: 3,
            limit: 3,
            total: 9,
        };
        refuse(server, &refused.into());
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
            "{head}"
        );
        assert!(head.contains("retry-after: 5"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["code"], "too_many_connections");
        let detail = "user 7 has 3 connections; the share of this user is now 3 of 9";
        assert_eq!(body["detail"], detail);
    }
}
