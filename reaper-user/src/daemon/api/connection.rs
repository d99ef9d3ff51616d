//! Serves one connection: its requests in order, until its peer, its idle time or the daemon ends it.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, Version};
use hyper_util::rt::TokioIo;
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::connection_budget::{ConnectionSlot, Ending, Turns};
use super::server::stop_requested;
use super::undelivered::{DeliveryTracker, UndeliveredSessions};
use super::{App, Peer, PeerPidNs, routes};
use crate::daemon::http::body::{ResponseBody, problem};
use crate::daemon::http::framing::FramingFilter;
use crate::daemon::http::secrets::{RequestSecrets, SecretQueue};
use crate::daemon::metrics::Route;

/// Larger than the largest head that the framing filter passes. Bounds what is buffered for a slow
/// reader.
pub(super) const BUFFER: usize = 64 * 1024;
/// The response field that announces how long a connection is kept, as Node's client reads it.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Serves one connection.
pub(super) async fn serve(
    app: Arc<App>,
    stream: UnixStream,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
    slot: ConnectionSlot,
) {
    let slot = Arc::new(slot);
    let phase = Arc::new(Phase::new(slot.keep_alive()));
    let undelivered = UndeliveredSessions::default();
    let registry = app.reaper.registry().clone();
    let secrets = SecretQueue::new(registry.clone());
    let io = ConnectionIo {
        stream,
        slot: slot.clone(),
        phase: phase.clone(),
        read_in: None,
        is_shut: false,
    };
    let io = DeliveryTracker {
        inner: FramingFilter::new(io, secrets.clone()),
        undelivered: undelivered.clone(),
    };
    let pid_ns = PeerPidNs::default();
    let (for_requests, for_slot, for_phase) = (undelivered.clone(), slot.clone(), phase.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (app, slot, phase) = (app.clone(), for_slot.clone(), for_phase.clone());
        let busy = slot.busy();
        request.extensions_mut().insert(for_requests.clone());
        if request.method() == Method::POST {
            request.extensions_mut().insert(pid_ns.clone());
        } else {
            request.extensions_mut().insert(Turns::of(&slot));
        }
        let secrets = secrets.next();
        async move {
            let is_kept = keeps_alive(request.version(), request.headers());
            let mut response = respond(&app, peer, request, secrets, &slot).await;
            phase.announce(is_kept, &mut response);
            Ok::<_, Infallible>(response.map(|body| busy.until_written(body)))
        }
    });
    let connection = http1::Builder::new()
        // The slot has the times, because they depend on what the connection has done before.
        .header_read_timeout(None)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop_requested(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        ending = slot.ending() => match ending {
            Ending::SlowHead => Ok(()),
            // Its peer does not read, and could delay the close for as long as a reader may take.
            Ending::Idle if phase.is_blocked.load(Ordering::Relaxed) => Ok(()),
            Ending::Idle => {
                phase.closing.store(true, Ordering::Relaxed);
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        // A slow or broken peer. The text is hyper's and contains nothing that the peer sent.
        log::debug!("a connection ended: {error}");
    }
    undelivered.remove_all(&registry);
}

/// Responds in the user's turn, and refuses if too many requests of this user are in progress.
async fn respond(
    app: &Arc<App>,
    peer: Peer,
    request: Request<Incoming>,
    secrets: RequestSecrets,
    slot: &ConnectionSlot,
) -> Response<ResponseBody> {
    let route = Route::of(request.method(), request.uri().path());
    slot.may_start().await;
    let response = match slot.begin_request() {
        Ok(_charge) => routes::respond(app.clone(), peer, request, secrets).await,
        Err(refused) => problem(&refused.into()),
    };
    app.counters.responded(route, &response);
    response
}

/// Returns whether the client keeps the connection after this request (RFC 9112, section 9.3).
fn keeps_alive(version: Version, fields: &HeaderMap) -> bool {
    let names = |option: &str| {
        let values = fields.get_all(header::CONNECTION).iter();
        let options = values.filter_map(|value| value.to_str().ok());
        let mut options = options.flat_map(|value| value.split(','));
        options.any(|name| name.trim().eq_ignore_ascii_case(option))
    };
    if version == Version::HTTP_11 {
        !names("close")
    } else {
        names("keep-alive")
    }
}

/// What a connection does next.
struct Phase {
    /// The value of `keep-alive`.
    keep_alive: HeaderValue,
    /// It closes, after the requests that have arrived.
    closing: AtomicBool,
    /// Its response ends with the connection. What else arrives is never read.
    last_response: AtomicBool,
    /// Something is to be written, and the socket takes no more. Hyper has the response in its buffer,
    /// and the body is gone already, so that the connection counts as idle.
    is_blocked: AtomicBool,
}

impl Phase {
    fn new(keep_alive: Duration) -> Self {
        let timeout = HeaderValue::try_from(format!("timeout={}", keep_alive.as_secs()));
        Self {
            keep_alive: timeout.expect("letters and digits"),
            closing: AtomicBool::new(false),
            last_response: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
        }
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        self.is_blocked
            .store(written.is_pending(), Ordering::Relaxed);
    }

    /// Adds to a response how long the connection is kept, or that it is not.
    fn announce(&self, is_kept: bool, response: &mut Response<ResponseBody>) {
        // Only event streams have this version: they have no length and no chunks.
        if response.version() == Version::HTTP_10 {
            self.last_response.store(true, Ordering::Relaxed);
        }
        let fields = response.headers_mut();
        if self.closing.load(Ordering::Relaxed) {
            fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if is_kept && !fields.contains_key(header::CONNECTION) {
            fields.insert(KEEP_ALIVE, self.keep_alive.clone());
        }
    }
}

/// The socket of a connection.
///
/// - Before an idle connection is closed, it is shut down for reading. From then on the peer cannot
///   write; what it wrote before is still read and answered. So no request is lost between the last
///   read and the close: it is answered, or was never written (`EPIPE`, [`unix_stream_sendmsg`]).
/// - During the last response the socket is read although hyper does not want more: hyper stops
///   reading once it has a part of another request, and would not notice that the peer has gone.
///
/// [`unix_stream_sendmsg`]: https://elixir.bootlin.com/linux/v6.12/source/net/unix/af_unix.c
struct ConnectionIo {
    stream: UnixStream,
    slot: Arc<ConnectionSlot>,
    phase: Arc<Phase>,
    /// The state of the connection, as [`ConnectionSlot::changes`], in which the last bytes arrived.
    /// `None` if they have been waited for since.
    read_in: Option<u64>,
    is_shut: bool,
}

impl ConnectionIo {
    /// Discards what arrives, and returns an error once the peer has gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // A token may be in them.
        let mut discarded = Zeroizing::new([0; 512]);
        loop {
            let mut part = ReadBuf::new(discarded.as_mut());
            match Pin::new(&mut self.stream).poll_read(cx, &mut part) {
                Poll::Pending => return Ok(()),
                Poll::Ready(read) => read?,
            }
            if part.filled().is_empty() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }
}

impl AsyncRead for ConnectionIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.phase.closing.load(Ordering::Relaxed) && !this.is_shut {
            this.is_shut = true;
            shutdown(&this.stream, Shutdown::Read)?;
        }
        let before = out.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, out);
        match &read {
            Poll::Ready(_) => {
                let has_read = out.filled().len() > before;
                if this.is_shut && !has_read && this.slot.is_busy() {
                    // For hyper, the end of the stream during a request is a peer that has gone, and
                    // it would drop the response. It closes after the response in any case.
                    return Poll::Pending;
                }
                this.read_in = has_read.then(|| this.slot.changes());
            }
            Poll::Pending => {
                let read_in = this.read_in.take();
                // Otherwise they were of a request that has been answered.
                if read_in.is_some_and(|state| state == this.slot.changes()) {
                    this.slot.is_incomplete();
                }
            }
        }
        read
    }
}

impl AsyncWrite for ConnectionIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.phase.note_write(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.phase.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper calls this whenever the connection is polled and nothing is left to write.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.phase.last_response.load(Ordering::Relaxed) {
            this.poll_gone(cx)?;
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_the_connection_by_version_and_field() {
        for (version, field, expected) in [
            (Version::HTTP_11, None, true),
            (Version::HTTP_11, Some("keep-alive, CLOSE"), false),
            (Version::HTTP_10, None, false),
            (Version::HTTP_10, Some("Keep-Alive"), true),
        ] {
            let mut fields = HeaderMap::new();
            if let Some(field) = field {
                fields.insert(header::CONNECTION, HeaderValue::from_static(field));
            }
            assert_eq!(
                keeps_alive(version, &fields),
                expected,
                "{version:?} {field:?}"
            );
        }
    }
}
