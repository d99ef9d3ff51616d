//! The client's event stream.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{ClientError, Frame, SseParser};

/// The daemon sends something every 15 s. After this time without a byte the stream has failed.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest event. One is about one session at most, whose text has some 36 KiB.
const MAX_FRAME: usize = 1 << 20;
/// The longest snapshot, which has all sessions. One of about 100,000 ordinary sessions is shorter.
const MAX_SNAPSHOT: usize = 128 << 20;

/// An open stream of events.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    parser: SseParser,
}

impl EventStream {
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            parser: SseParser::default(),
        }
    }

    /// Returns the next event, or `None` once the daemon has ended the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            if let Some(frame) = self.parser.pop() {
                return Ok(Some(frame));
            }
            let part = tokio::time::timeout(SILENCE_TIMEOUT, self.body.frame())
                .await
                .map_err(|_elapsed| ClientError::TimedOut {
                    limit: SILENCE_TIMEOUT,
                })?;
            let Some(part) = part else { return Ok(None) };
            if let Some(bytes) = part?.data_ref() {
                self.parser.push(bytes);
            }
            let longest = if self.parser.event() == "snapshot" {
                MAX_SNAPSHOT
            } else {
                MAX_FRAME
            };
            if self.parser.unfinished() > longest {
                let detail = format!("the daemon sent an event of more than {longest} bytes");
                return Err(ClientError::Protocol { detail });
            }
        }
    }
}
