//! The stream of events as a client reads it.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{ClientError, Frame, SseParser};

/// A daemon says something every 15 s; after this long without a byte it is not alive any more.
const LONGEST_SILENCE: Duration = Duration::from_mins(1);
/// The longest line that is kept: a snapshot of some 100,000 sessions stays below.
const LONGEST_LINE: usize = 128 << 20;

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

    /// The next event; `None` when the daemon has ended the stream in order. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            if let Some(frame) = self.parser.pop() {
                return Ok(Some(frame));
            }
            let part = tokio::time::timeout(LONGEST_SILENCE, self.body.frame())
                .await
                .map_err(|_elapsed| ClientError::TimedOut {
                    limit: LONGEST_SILENCE,
                })?;
            let Some(part) = part else { return Ok(None) };
            if let Some(bytes) = part?.data_ref() {
                self.parser.push(bytes);
            }
            if self.parser.unfinished() > LONGEST_LINE {
                let detail = "the daemon sent a line without an end".to_owned();
                return Err(ClientError::Protocol { detail });
            }
        }
    }
}
