//! Connections for which there is no place: they wait a moment for one, outside of the loop that
//! accepts connections, and then get a response. It is written without a parser: the request is read
//! as far as it has arrived, and answered unseen.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::connection_budget::{ConnectionBudget, ConnectionSlot};
use crate::daemon::http::problem::Problem;

/// How many wait at the same time. More are closed at once. `fd_budget.rs` reserves their
/// descriptors.
const AT_ONCE: usize = 4;
/// How long a connection waits for a place: longer than ordinary requests take.
const PLACE_WITHIN: Duration = Duration::from_millis(500);
/// How long the request may take. A client sends it right after it has connected.
const REQUEST_WITHIN: Duration = Duration::from_millis(100);

/// Where connections wait for a place.
pub(super) struct WaitingRoom {
    free: Arc<Semaphore>,
}

impl Default for WaitingRoom {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

/// A place in the waiting room.
pub(super) struct Waiting {
    _place: OwnedSemaphorePermit,
}

impl WaitingRoom {
    /// Returns a place, if there is one.
    pub(super) fn enter(&self) -> Option<Waiting> {
        let place = self.free.clone().try_acquire_owned().ok()?;
        Some(Waiting { _place: place })
    }
}

impl Waiting {
    /// Waits for a place among the served. Without one, responds and returns the response's problem.
    pub(super) async fn admit(
        self,
        stream: UnixStream,
        uid: u32,
        budget: &Arc<ConnectionBudget>,
    ) -> Result<(UnixStream, ConnectionSlot), Problem> {
        match budget.admit_within(uid, PLACE_WITHIN).await {
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
pub(super) fn refuse(stream: UnixStream, problem: &Problem) {
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

    #[tokio::test]
    async fn a_refused_connection_gets_a_whole_response_with_the_limit() {
        let (mut client, server) = UnixStream::pair().unwrap();
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
