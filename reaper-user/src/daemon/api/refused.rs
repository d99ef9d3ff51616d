//! The response to a connection for which there is no place. It has no slot, no parser and no task
//! of its own for long: its request is read as far as it has arrived and answered unseen.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::daemon::http::problem::Problem;

/// How many wait for a request at the same time. More are closed at once. `fd_budget.rs` reserves
/// their descriptors.
const AT_ONCE: usize = 3;
/// How long the request may take. A client sends it right after it has connected.
const REQUEST_WITHIN: Duration = Duration::from_millis(100);

/// Responds to refused connections.
pub(super) struct Refusals {
    free: Arc<Semaphore>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Refusals {
    /// Sends the problem and closes the connection.
    pub(super) fn send(&self, stream: UnixStream, problem: &Problem) {
        let response = response(problem);
        let Ok(place) = self.free.clone().try_acquire_owned() else {
            // The socket buffer of a new connection is empty, so that this is written whole.
            drop(stream.try_write(&response));
            return;
        };
        tokio::spawn(async move {
            // Written only when the request is there, and then what has arrived is read: a client
            // that still writes, or whose bytes are unread at the close, may miss the response.
            if timeout(REQUEST_WITHIN, stream.readable()).await.is_ok() {
                let mut request = Zeroizing::new([0; 4 * 1024]);
                drop(stream.try_read(request.as_mut()));
            }
            drop(stream.try_write(&response));
            drop(place);
        });
    }
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
        Refusals::default().send(server, &refused.into());
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: l\r\n\r\n")
            .await
            .unwrap();
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
