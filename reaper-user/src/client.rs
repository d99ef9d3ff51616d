//! A small HTTP client for the daemon's Unix socket, used by the command line and the tests, and
//! for its API over TCP ([`Client::with_tcp`]).
//!
//! Each request has its own connection: a command sends one or two requests, and a connection that is
//! not kept open cannot become stale. A missing daemon is a separate error, so that it is not mistaken
//! for a daemon without sessions.
//!
//! Before a byte is sent, the client checks which user listens on the socket: its own user, root, or
//! the one given to [`Client::with_server_uid`]. Another user's program gets nothing
//! ([`ClientError::UntrustedServer`]). A client of root may send requests without secrets (`GET`
//! without a token) to any user's daemon.

mod error;
#[cfg(feature = "cli")]
pub(crate) mod follow;
#[cfg(feature = "cli")]
mod keep;
mod lists;
mod metrics;
mod reading;
mod speaks_first;
mod sse;
mod stream;
mod tcp;
mod trusted_server;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
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

use speaks_first::SpeaksFirst;
use trusted_server::TrustedServer;
#[cfg(feature = "cli")]
pub(crate) use trusted_server::is_in_folder_of_caller;

/// The size of `sun_path` without its final NUL: unix(7); on the BSDs it has 104 bytes in all.
pub(crate) const SOCKET_PATH_MAX: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    107
} else {
    103
};
/// The default time limit for a response.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit for reading a response that has already arrived.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest response: a list of about 500,000 sessions that is not read in pages.
const MAX_RESPONSE: usize = 256 << 20;
/// What the daemon may respond with; of metrics, Prometheus's text.
const ACCEPTED: &str = "application/json, text/event-stream, text/plain";
/// The largest page: no session has more than 48 KiB.
const MAX_PAGE: usize = 48 << 20;
/// The largest error response.
const MAX_PROBLEM: usize = 1 << 20;

/// A client of one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    server: TrustedServer,
    /// Where requests are sent instead of to the socket.
    tcp: Option<SocketAddr>,
}

impl Client {
    /// Creates a client for the daemon on this socket. Each request opens a connection.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            timeout: DEFAULT_TIMEOUT,
            server: TrustedServer::default(),
            tcp: None,
        }
    }

    /// Also trusts a daemon of this user, besides those of the caller's own user and of root.
    pub fn with_server_uid(mut self, uid: u32) -> Self {
        self.server.named = Some(uid);
        self
    }

    /// The user that was given to [`Self::with_server_uid`].
    pub fn server_uid(&self) -> Option<u32> {
        self.server.named
    }

    /// Requires that the folder of the socket belongs to the caller's user or root and is not open to
    /// others.
    #[cfg(feature = "cli")]
    pub(crate) fn in_checked_folder(mut self) -> Self {
        self.server.checks_folder = true;
        self
    }

    /// Sets the time limit for a response.
    pub fn with_time_limit(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Checks the folder of the socket as each request does.
    pub(crate) fn check_folder(&self) -> Result<(), ClientError> {
        self.server.check_folder(&self.socket)
    }

    /// The path of the daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a GET request.
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.json(Method::GET, target, None, Bytes::new()).await
    }

    /// Sends a GET request with the token of a session.
    pub async fn get_as<T: DeserializeOwned>(
        &self,
        token: &Token,
        target: &str,
    ) -> Result<T, ClientError> {
        self.json(Method::GET, target, Some(token), Bytes::new())
            .await
    }

    /// Sends a POST request with a JSON body.
    pub async fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        self.json(Method::POST, target, None, as_json(body)?).await
    }

    /// Sends a POST request whose JSON body has `"if_answered": true`. On Linux the daemon then stores
    /// nothing unless this method returns its response. A request that returns an error has had no
    /// effect and will have none, even if the daemon handles it later.
    pub async fn post_if_answered<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let body = as_json(body)?;
        let stream = self
            .limited(self.connect(trusted_server::Request::Sensitive))
            .await?;
        let own_end = stream.as_fd().try_clone_to_owned();
        let own_end = own_end.map_err(|source| ClientError::Connect {
            path: self.socket.clone(),
            source,
        })?;
        let mut exchange = std::pin::pin!(async {
            let response = exchange(stream, message(Method::POST, target, None, body)?);
            read_json(target, response.await?, MAX_RESPONSE).await
        });
        if let Ok(result) = tokio::time::timeout(self.timeout, exchange.as_mut()).await {
            return result;
        }
        let timed_out = ClientError::TimedOut {
            limit: self.timeout,
        };
        // After the shutdown the daemon can send nothing more. A response that it sent before is still
        // read, because then the request has had its effect.
        rustix::net::shutdown(&own_end, rustix::net::Shutdown::Read).unwrap_or_default();
        match tokio::time::timeout(FINAL_READ_TIMEOUT, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(problem @ ClientError::Problem { .. })) => Err(problem),
            Ok(Err(_)) | Err(_) => Err(timed_out),
        }
    }

    /// Sends a DELETE request.
    pub async fn delete<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.json(Method::DELETE, target, None, Bytes::new()).await
    }

    /// Sends a DELETE request with the token of a session.
    pub async fn delete_as<T: DeserializeOwned>(
        &self,
        token: &Token,
        target: &str,
    ) -> Result<T, ClientError> {
        self.json(Method::DELETE, target, Some(token), Bytes::new())
            .await
    }

    /// Opens the event stream. `query` is empty or starts with `?`.
    pub async fn events(&self, query: &str) -> Result<EventStream, ClientError> {
        let target = format!("/v1/events{query}");
        let response = self
            .limited(self.send(Method::GET, &target, None, Bytes::new()))
            .await?;
        if !response.status().is_success() {
            return Err(self.limited(problem(response)).await?);
        }
        Ok(EventStream::new(response.into_body()))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        token: Option<&Token>,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.json_within(MAX_RESPONSE, method, target, token, body)
            .await
    }

    async fn json_within<T: DeserializeOwned>(
        &self,
        longest: usize,
        method: Method,
        target: &str,
        token: Option<&Token>,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.limited(async {
            let response = match self.send(method.clone(), target, token, body.clone()).await {
                // The connection was accepted by a daemon that was about to stop. A GET request can be
                // repeated; the second connection shows whether there is a new daemon.
                Err(ClientError::Broken { .. }) if method == Method::GET => {
                    self.send(method, target, token, body).await?
                }
                response => response?,
            };
            read_json(target, response, longest).await
        })
        .await
    }

    async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or(Err(ClientError::TimedOut {
                limit: self.timeout,
            }))
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        token: Option<&Token>,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = if method == Method::GET && token.is_none() {
            trusted_server::Request::Read
        } else {
            trusted_server::Request::Sensitive
        };
        let message = message(method, target, token, body)?;
        if let Some(address) = self.tcp {
            return tcp::exchange(self, address, message).await;
        }
        exchange(self.connect(request).await?, message).await
    }

    /// Connects to the socket, and checks the other end.
    async fn connect(&self, request: trusted_server::Request) -> Result<UnixStream, ClientError> {
        if self.tcp.is_some() {
            return Err(ClientError::NotOverTcp);
        }
        self.check_folder()?;
        let length = self.socket.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            return Err(ClientError::PathTooLong {
                path: self.socket.clone(),
                length,
                max: SOCKET_PATH_MAX,
            });
        }
        let connected = UnixStream::connect(&self.socket).await;
        let stream = connected.map_err(|source| {
            let path = self.socket.clone();
            let is_other_file = || path.metadata().is_ok_and(|it| !it.file_type().is_socket());
            match source.kind() {
                io::ErrorKind::ConnectionRefused if is_other_file() => {
                    ClientError::NotASocket { path }
                }
                // No such file, a path through something else than a directory, or no listener.
                io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon { path },
                io::ErrorKind::PermissionDenied => ClientError::Forbidden { path },
                _ => ClientError::Connect { path, source },
            }
        })?;
        self.server.check(&stream, &self.socket, request)?;
        Ok(stream)
    }
}

/// Builds a request.
fn message(
    method: Method,
    target: &str,
    token: Option<&Token>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, ClientError> {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, "localhost")
        .header(ACCEPT, ACCEPTED)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::Protocol {
            detail: error.to_string(),
        })?;
    if let Some(token) = token {
        let value = format!("ClaudeMesh-Session {}", token.reveal().as_str());
        let mut value = HeaderValue::try_from(value).map_err(|error| ClientError::Protocol {
            detail: error.to_string(),
        })?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

fn as_json(body: &impl Serialize) -> Result<Bytes, ClientError> {
    let body = serde_json::to_vec(body).map_err(|error| ClientError::Protocol {
        detail: format!("cannot encode the request as JSON: {error}"),
    })?;
    Ok(body.into())
}

/// Sends one request on a connection of its own.
async fn exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(SpeaksFirst::new(stream))).await?;
    // The task ends with the exchange, or when the reader of the stream is dropped. Errors of the
    // connection also appear in the exchange.
    tokio::spawn(async move { connection.await.unwrap_or_default() });
    Ok(sender.send_request(request).await?)
}

async fn read_json<T: DeserializeOwned>(
    target: &str,
    response: Response<Incoming>,
    longest: usize,
) -> Result<T, ClientError> {
    if !response.status().is_success() {
        return Err(problem(response).await?);
    }
    let body = whole_body(response.into_body(), longest).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::Protocol {
        detail: format!("unexpected response to {target}: {error}"),
    })
}

/// Reads an error response.
async fn problem(response: Response<Incoming>) -> Result<ClientError, ClientError> {
    let status = response.status().as_u16();
    let body = whole_body(response.into_body(), MAX_PROBLEM).await?;
    Ok(reading::problem(status, &body))
}

async fn whole_body(body: Incoming, longest: usize) -> Result<Bytes, ClientError> {
    Limited::new(body, longest)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| ClientError::Broken {
            detail: error.to_string(),
        })
}

/// Percent-encodes text for use as one path segment.
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
