//! Serves one connection: its requests in order, until its peer, its idle time or the daemon ends it.

mod driver;
mod event_writer;
mod io;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::header;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use self::event_writer::EventWriter;
use self::io::{ConnectionIo, Phase};
use super::connection_budget::{ConnectionSlot, Turns};
use super::events::EventStream;
use super::stream::ClientStream;
use super::undelivered::{DeliveryTracker, UndeliveredSessions};
use super::{App, Peer, PeerPidNs, Transport, routes};
use crate::daemon::handover::{Hold, Mode, StreamPosition};
use crate::daemon::http::body::{ResponseBody, problem};
use crate::daemon::http::framing::FramingFilter;
use crate::daemon::http::secrets::{RequestSecrets, SecretQueue};
use crate::daemon::metrics::Route;
use crate::daemon::tcp::Bearer;

/// Larger than the largest head that the framing filter passes. Bounds what is buffered for a slow
/// reader.
pub(super) const BUFFER: usize = 64 * 1024;

/// Serves one connection.
pub(super) async fn serve(
    app: Arc<App>,
    stream: ClientStream,
    peer: Peer,
    mode: watch::Receiver<Mode>,
    slot: ConnectionSlot,
) {
    let place = Place::new(peer, slot);
    let undelivered = UndeliveredSessions::default();
    let registry = app.reaper.registry().clone();
    let secrets = SecretQueue::with_bearer(registry.clone(), bearer_of(&app, peer));
    let io = DeliveryTracker {
        inner: place.socket(stream, secrets.clone()),
        undelivered: undelivered.clone(),
    };
    let pid_ns = PeerPidNs::default();
    let (for_requests, at) = (undelivered.clone(), place.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (app, at) = (app.clone(), at.clone());
        let busy = at.slot.busy();
        request.extensions_mut().insert(for_requests.clone());
        if request.method() == Method::POST {
            request.extensions_mut().insert(pid_ns.clone());
        } else {
            request.extensions_mut().insert(Turns::of(&at.slot));
        }
        if routes::needs_hold(request.uri().path()) {
            request.extensions_mut().insert(at.hold.clone());
        }
        let secrets = secrets.next();
        async move {
            let is_kept = keeps_alive(request.version(), request.headers());
            let mut response = respond(&app, peer, request, secrets, &at.slot).await;
            at.phase.announce(is_kept, &mut response);
            Ok::<_, Infallible>(response.map(|body| busy.until_written(body)))
        }
    });
    let connection = http1::Builder::new()
        // The slot has the times, because they depend on what the connection has done before.
        .header_read_timeout(None)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(io), service);
    let connection = pin!(connection);
    let ended = driver::drive(connection, mode, &place, |connection| {
        connection.graceful_shutdown();
    });
    if let Err(error) = ended.await {
        // A slow or broken peer. The text is hyper's and contains nothing that the peer sent.
        log::debug!("a connection ended: {error}");
    }
    undelivered.remove_all(&registry);
}

/// Continues the event stream of a connection that the former daemon has handed over.
pub(super) async fn serve_stream(
    app: Arc<App>,
    stream: ClientStream,
    peer: Peer,
    mode: watch::Receiver<Mode>,
    slot: ConnectionSlot,
    position: StreamPosition,
) {
    let place = Place::new(peer, slot);
    let _busy = place.slot.busy();
    // What else arrives is never read, as behind a request for a stream.
    place.phase.last_response.store(true, Ordering::Relaxed);
    let secrets = SecretQueue::new(app.reaper.registry().clone());
    let events = EventStream::continued(&app, peer, position, place.hold.clone());
    let events = match events {
        Ok(events) => events,
        Err(problem) => {
            log::debug!("a stream ends with the hand-over: {}", problem.code());
            return;
        }
    };
    let writer = pin!(EventWriter::new(place.socket(stream, secrets), events));
    // It ends by itself with the event of the shutdown.
    let ended = driver::drive(writer, mode, &place, |_| {});
    if let Err(error) = ended.await {
        log::debug!("a stream ended: {error}");
    }
}

/// Returns the bearer that counts on this connection.
fn bearer_of(app: &App, peer: Peer) -> Option<Arc<Bearer>> {
    let door = app.tcp.as_ref();
    let door = door.filter(|_| matches!(peer.transport, Transport::Tcp { .. }))?;
    Some(door.bearer.clone())
}

/// What belongs to one connection.
#[derive(Clone)]
struct Place {
    peer: Peer,
    slot: Arc<ConnectionSlot>,
    phase: Arc<Phase>,
    hold: Hold,
}

impl Place {
    fn new(peer: Peer, slot: ConnectionSlot) -> Self {
        let phase = Phase::new(slot.keep_alive());
        Self {
            peer,
            slot: Arc::new(slot),
            phase: Arc::new(phase),
            hold: Hold::default(),
        }
    }

    fn socket(&self, stream: ClientStream, secrets: SecretQueue) -> FramingFilter<ConnectionIo> {
        let Self {
            slot, phase, hold, ..
        } = self.clone();
        let io = ConnectionIo::new(stream, slot, phase, hold.clone());
        FramingFilter::new(io, secrets).held_by(hold)
    }
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

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

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
