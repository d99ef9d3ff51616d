//! A small HTTP client over the daemon's Unix socket, shared by the command line and the tests.
//!
//! One connection a request: a command asks once or twice, and a connection that is not kept cannot
//! go stale. "There is no daemon" is an error of its own, so that nobody takes it for "no sessions".

mod error;
mod reading;
mod sse;
mod stream;

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use reaper_registry::Token;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

pub use error::ClientError;
pub use reading::{
    Deregistered, ExitSeen, Registered, Session, SessionList, SourceReport, SourcesReport, Version,
};
pub use sse::{Frame, SseParser};
pub use stream::EventStream;

/// How long an answer may take, unless told otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to read an answer that is already there.
const LAST_LOOK: Duration = Duration::from_secs(3);
/// The largest answer that is read: a list of some 500,000 sessions.
const LARGEST_ANSWER: usize = 256 << 20;

/// A client of one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    time_limit: Duration,
}

impl Client {
    /// Of the daemon that listens there; connects at each request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            time_limit: TIME_LIMIT,
        }
    }

    /// With another limit on the time an answer may take.
    pub fn with_time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Reads a resource.
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.json(Method::GET, target, None, Bytes::new()).await
    }

    /// Reads a resource as the session that holds this token.
    pub async fn get_as<T: DeserializeOwned>(
        &self,
        token: &Token,
        target: &str,
    ) -> Result<T, ClientError> {
        self.json(Method::GET, target, Some(token), Bytes::new())
            .await
    }

    /// Sends a JSON body.
    pub async fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        self.json(Method::POST, target, None, as_json(body)?).await
    }

    /// Sends a JSON body which says `"if_answered": true`, so that on Linux nothing is stored unless
    /// this returns the answer. What is returned as an error has had no effect and will have none,
    /// however late the daemon goes on.
    pub async fn post_if_answered<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let body = as_json(body)?;
        let stream = self.limited(self.connect()).await?;
        let own_end = stream.as_fd().try_clone_to_owned();
        let own_end = own_end.map_err(|source| ClientError::Connect {
            path: self.socket.clone(),
            source,
        })?;
        let mut exchange = std::pin::pin!(async {
            let answer = self.send_on(stream, Method::POST, target, None, body);
            read_json(target, answer.await?).await
        });
        if let Ok(answered) = tokio::time::timeout(self.time_limit, exchange.as_mut()).await {
            return answered;
        }
        let timed_out = ClientError::TimedOut {
            limit: self.time_limit,
        };
        // From here on the daemon cannot answer any more. What it had sent by now is still read: then
        // it has done what was asked for.
        rustix::net::shutdown(&own_end, rustix::net::Shutdown::Read).unwrap_or_default();
        match tokio::time::timeout(LAST_LOOK, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(problem @ ClientError::Problem { .. })) => Err(problem),
            Ok(Err(_)) | Err(_) => Err(timed_out),
        }
    }

    /// Deletes a resource.
    pub async fn delete<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.json(Method::DELETE, target, None, Bytes::new()).await
    }

    /// Deletes a resource as the session that holds this token.
    pub async fn delete_as<T: DeserializeOwned>(
        &self,
        token: &Token,
        target: &str,
    ) -> Result<T, ClientError> {
        self.json(Method::DELETE, target, Some(token), Bytes::new())
            .await
    }

    /// Opens the stream of events; `query` is empty or starts with `?`.
    pub async fn events(&self, query: &str) -> Result<EventStream, ClientError> {
        let target = format!("/v1/events{query}");
        let answer = self
            .limited(self.send(Method::GET, &target, None, Bytes::new()))
            .await?;
        if !answer.status().is_success() {
            return Err(self.limited(problem(answer)).await?);
        }
        Ok(EventStream::new(answer.into_body()))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        token: Option<&Token>,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.limited(async {
            let answer = match self.send(method.clone(), target, token, body.clone()).await {
                // It was accepted by a daemon that was about to end. Asked again, which a question
                // may be, the socket says plainly whether there is another.
                Err(ClientError::Broken { .. }) if method == Method::GET => {
                    self.send(method, target, token, body).await?
                }
                answer => answer?,
            };
            read_json(target, answer).await
        })
        .await
    }

    async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(self.time_limit, work)
            .await
            .unwrap_or(Err(ClientError::TimedOut {
                limit: self.time_limit,
            }))
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        token: Option<&Token>,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        self.send_on(stream, method, target, token, body).await
    }

    async fn send_on(
        &self,
        stream: UnixStream,
        method: Method,
        target: &str,
        token: Option<&Token>,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends by itself: with the exchange, or with the stream when its reader is dropped. What
        // goes wrong on it shows on the exchange.
        tokio::spawn(async move { connection.await.unwrap_or_default() });
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "localhost")
            .header(ACCEPT, "application/json, text/event-stream")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Protocol {
                detail: error.to_string(),
            })?;
        if let Some(token) = token {
            let value = format!("ClaudeMesh-Session {}", token.reveal().as_str());
            let mut value =
                HeaderValue::try_from(value).map_err(|error| ClientError::Protocol {
                    detail: error.to_string(),
                })?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(sender.send_request(request).await?)
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.socket).await.map_err(|source| {
            let path = self.socket.clone();
            match source.kind() {
                // No file, a folder on the way that is none, or a file nobody listens on.
                io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon { path },
                io::ErrorKind::PermissionDenied => ClientError::Forbidden { path },
                _ => ClientError::Connect { path, source },
            }
        })
    }
}

fn as_json(body: &impl Serialize) -> Result<Bytes, ClientError> {
    let body = serde_json::to_vec(body).map_err(|error| ClientError::Protocol {
        detail: format!("the request cannot be written as JSON: {error}"),
    })?;
    Ok(body.into())
}

async fn read_json<T: DeserializeOwned>(
    target: &str,
    answer: Response<Incoming>,
) -> Result<T, ClientError> {
    if !answer.status().is_success() {
        return Err(problem(answer).await?);
    }
    let body = whole_body(answer.into_body()).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::Protocol {
        detail: format!("{target} answered something else than expected: {error}"),
    })
}

/// Reads an answer that says no.
async fn problem(answer: Response<Incoming>) -> Result<ClientError, ClientError> {
    let status = answer.status().as_u16();
    let body = whole_body(answer.into_body()).await?;
    Ok(reading::problem(status, &body))
}

async fn whole_body(body: Incoming) -> Result<Bytes, ClientError> {
    Limited::new(body, LARGEST_ANSWER)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| ClientError::Broken {
            detail: error.to_string(),
        })
}

/// Writes text so that it can stand as one segment of a path.
pub fn percent_encode(text: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut encoded, byte| {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    encoded.push(char::from(byte));
                }
                _ => {
                    encoded.push('%');
                    for nibble in [byte >> 4, byte & 0xf] {
                        encoded.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
                    }
                }
            }
            encoded
        })
}

#[cfg(test)]
mod tests;
