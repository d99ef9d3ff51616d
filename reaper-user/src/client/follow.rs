//! An event stream that goes on after the end of its connection, its worker or its daemon: it is opened
//! again behind the last event that was read, so that nothing is missed or read twice.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Method, Request};
use reaper_registry::Token;
use serde_json::Value;

use super::{
    Client, ClientError, EventStream, Frame, MAX_PROBLEM, exchange, problem, trusted_server,
};

/// The pause before the second attempt to open a stream again. The first one follows at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two attempts. It is what the daemon requests (`retry`).
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the first stream is tried if its connection breaks: a daemon may be about to stop.
const FIRST_ATTEMPTS: u32 = 5;
/// The id of no session: the daemon refuses one that is this long.
const NO_SESSION: &str = concat!(
    "--------------------------------------------------------------------------------",
    "--------------------------------------------------------------------------------"
);

/// Where a stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what happens from now on.
    Now,
    /// With the present sessions.
    Snapshot,
    /// Behind the event with this id, `EPOCH.SEQ`.
    After(String),
    /// Behind the event with this number of the running daemon; 0: with the oldest event that is kept.
    AfterSeq(u64),
}

/// What a follower reports.
#[derive(Debug)]
pub(crate) enum Followed {
    /// The stream is open.
    Open,
    /// An event.
    Frame(Frame),
    /// The stream ended, for this reason. The next call opens it again.
    Lost(String),
}

/// A stream of events that is opened again when it ends.
#[derive(Debug)]
pub(crate) struct Follower {
    client: Client,
    /// Without `snapshot`.
    query: String,
    with_snapshot: bool,
    /// The id of the last event; empty if there is none yet.
    last: String,
    /// Behind which number the stream begins, as long as there is no last event.
    since: Option<u64>,
    stream: Option<EventStream>,
    was_open: bool,
    failures: u32,
}

impl Follower {
    /// Prepares a stream. `query` is empty or has parameters without `snapshot`, such as `session=a`.
    pub(crate) async fn new(
        client: &Client,
        query: &str,
        start: Start,
    ) -> Result<Self, ClientError> {
        let with_snapshot = start == Start::Snapshot;
        let (last, since) = match start {
            Start::Snapshot => (String::new(), None),
            Start::After(id) => (id, None),
            // An event before the first connection is lost is read after it: the position is known.
            Start::Now => (client.position().await?, None),
            Start::AfterSeq(seq) => (String::new(), Some(seq)),
        };
        Ok(Self {
            client: client.clone(),
            query: query.to_owned(),
            with_snapshot,
            last,
            since,
            stream: None,
            was_open: false,
            failures: 0,
        })
    }

    /// The id of the last event that was read, or behind which the stream begins; may be empty.
    pub(crate) fn last(&self) -> &str {
        &self.last
    }

    /// Returns what comes next. Fails if the first stream cannot be opened, and later only for what does
    /// not pass, such as a refusal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Followed, ClientError> {
        let Some(stream) = &mut self.stream else {
            self.stream = Some(self.open().await?);
            self.was_open = true;
            return Ok(Followed::Open);
        };
        let reason = match stream.next().await {
            Ok(Some(frame)) => {
                self.failures = 0;
                if !frame.id.is_empty() {
                    self.last.clone_from(&frame.id);
                }
                return Ok(Followed::Frame(frame));
            }
            Ok(None) => "the daemon closed the stream".to_owned(),
            Err(error @ ClientError::Protocol { .. }) => return Err(error),
            Err(error) => error.to_string(),
        };
        self.stream = None;
        Ok(Followed::Lost(reason))
    }

    async fn open(&mut self) -> Result<EventStream, ClientError> {
        loop {
            if self.failures > 0 {
                let pause = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(10));
                tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
            }
            self.failures = self.failures.saturating_add(1);
            let error = match self.client.events_after(&self.target(), &self.last).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let is_broken = matches!(error, ClientError::Broken { .. });
            let again = if self.was_open {
                passes(&error)
            } else {
                is_broken && self.failures < FIRST_ATTEMPTS
            };
            if !again {
                return Err(error);
            }
        }
    }

    fn target(&self) -> String {
        let snapshot = self.with_snapshot.then_some("snapshot=1");
        let query = Some(self.query.as_str()).filter(|query| !query.is_empty());
        let since = self.since.filter(|_| self.last.is_empty());
        let since = since.map(|seq| format!("since={seq}"));
        let query: Vec<_> = query
            .into_iter()
            .chain(snapshot)
            .chain(since.as_deref())
            .collect();
        format!("/v1/events?{}", query.join("&"))
    }
}

/// Whether this error may be over once the daemon runs again.
pub(crate) fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::NoDaemon { .. }
        | ClientError::Connect { .. }
        | ClientError::TimedOut { .. }
        | ClientError::Broken { .. } => true,
        ClientError::Problem { status, .. } => matches!(status, 429 | 503),
        _ => false,
    }
}

/// Divides an id into the run of the daemon and the number of the event.
pub(crate) fn numbered(id: &str) -> Option<(&str, u64)> {
    let (epoch, seq) = id.split_once('.')?;
    let is_epoch = epoch.len() == 16 && epoch.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((epoch, seq.parse().ok()?)).filter(|_| is_epoch)
}

fn no_position(id: &str) -> ClientError {
    ClientError::Protocol {
        detail: format!("the daemon sent no position of its events but {id:?}"),
    }
}

impl Client {
    /// Returns the id of the last event until now.
    pub(crate) async fn position(&self) -> Result<String, ClientError> {
        // A snapshot of no session has the position only.
        let query = format!("?snapshot=1&event=shutdown&session={NO_SESSION}");
        let mut events = self.events(&query).await?;
        let first = self.limited(events.next()).await?;
        let id = first.map(|frame| frame.id).unwrap_or_default();
        match numbered(&id) {
            Some(_) => Ok(id),
            None => Err(no_position(&id)),
        }
    }

    /// Opens the event stream behind the event with this id, or where `target` says if it is empty.
    async fn events_after(&self, target: &str, last: &str) -> Result<EventStream, ClientError> {
        self.limited(async {
            let stream = self.connect(trusted_server::Request::Read).await?;
            let mut request = Request::builder()
                .method(Method::GET)
                .uri(target)
                .header(HOST, "localhost")
                .header(ACCEPT, "text/event-stream, application/json");
            if !last.is_empty() {
                request = request.header("last-event-id", last);
            }
            let request =
                request
                    .body(Full::new(Bytes::new()))
                    .map_err(|error| ClientError::Protocol {
                        detail: error.to_string(),
                    })?;
            let response = exchange(stream, request).await?;
            if !response.status().is_success() {
                return Err(problem(response).await?);
            }
            Ok(EventStream::new(response.into_body()))
        })
        .await
    }

    /// Asks for the session of this token. Returns the body of the response, and whether it is the
    /// session; otherwise it is the error with all of its fields.
    pub(crate) async fn session_of(&self, token: &Token) -> Result<(bool, Value), ClientError> {
        let target = "/v1/sessions/me";
        self.limited(async {
            let response = self
                .send(Method::GET, target, Some(token), Bytes::new())
                .await?;
            let succeeded = response.status().is_success();
            if !succeeded && response.status().as_u16() != 401 {
                return Err(problem(response).await?);
            }
            let body = http_body_util::Limited::new(response.into_body(), MAX_PROBLEM);
            let body = body.collect().await.map_err(|error| ClientError::Broken {
                detail: error.to_string(),
            })?;
            let body = serde_json::from_slice(&body.to_bytes());
            let body = body.map_err(|error| ClientError::Protocol {
                detail: format!("unexpected response to {target}: {error}"),
            })?;
            Ok((succeeded, body))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_divided_into_epoch_and_number() {
        assert_eq!(
            numbered("6940afdd9cee9401.12"),
            Some(("6940afdd9cee9401", 12))
        );
        for wrong in ["", "12", "6940afdd9cee9401.", ".12", "x940afdd9cee9401.1"] {
            assert_eq!(numbered(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_id_of_no_session_is_longer_than_any() {
        assert!(NO_SESSION.len() > 128);
    }
}
