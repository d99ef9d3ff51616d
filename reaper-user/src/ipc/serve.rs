//! Accepts connections and serves them until it is told to stop.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::guard::Guard;
use super::listener::Socket;
use super::unanswered::{Answering, Unanswered};
use super::{App, Peer, Transport, admission, routes};

/// Connections at once; those that come then wait in the kernel's queue. Fewer where descriptors are
/// few: half of what the processes' share leaves, so that the rest is there to look with.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a head may take, and how long a connection may idle between two requests.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Holds the largest head that the guard lets through, and bounds what waits for a slow reader.
const BUFFER: usize = 64 * 1024;
/// After an accept that failed for want of descriptors or memory: others may free some meanwhile,
/// and trying at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the socket file is looked for.
const LOOK_FOR_SOCKET_EVERY: Duration = Duration::from_secs(1);
/// What connections get to end by themselves once told; the rest is cut off.
const FAREWELL: Duration = Duration::from_millis(1_500);

/// Serves until `stop` turns true, ends every connection and removes the socket.
pub(crate) async fn serve(app: Arc<App>, mut socket: Socket, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(most_connections()));
    let mut connections = JoinSet::new();
    let accept_fails = AtomicBool::new(false);
    let mut looks = interval(LOOK_FOR_SOCKET_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = stop.clone();
    loop {
        tokio::select! {
            () = told(&mut stop) => break,
            _ = looks.tick() => socket.stay(),
            Some(ended) = connections.join_next() => report_panic(ended),
            (stream, slot) = accept(&socket, &slots, &accept_fails) => {
                if let Some(peer) = admit(&app, &stream) {
                    let connection = connection(app.clone(), stream, peer, stopping.clone(), slot);
                    connections.spawn(connection);
                }
            }
        }
    }
    // Nobody finds us any more from here on, and whoever comes after us can take the path.
    socket.remove();
    app.reaper.registry().publish_shutdown(crate::clock::now());
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(FAREWELL, all_ended).await.is_err() {
        log::debug!("{} connections are cut off", connections.len());
        connections.shutdown().await;
    }
}

fn most_connections() -> usize {
    (crate::fd_budget::left_by_processes() / 2).clamp(1, MAX_CONNECTIONS)
}

/// Waits for the word to stop. The sender is dropped only with the daemon, which is an end too.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _either = stop.wait_for(|stop| *stop).await.is_ok();
}

/// The next connection, once there is room for one. Cancel-safe: what was accepted is answered with.
async fn accept(
    socket: &Socket,
    slots: &Arc<Semaphore>,
    fails: &AtomicBool,
) -> (UnixStream, OwnedSemaphorePermit) {
    let slot = slots
        .clone()
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                fails.store(false, Ordering::Relaxed);
                return (stream, slot);
            }
            Err(error) => {
                // Told once, however long it lasts.
                if !fails.swap(true, Ordering::Relaxed) {
                    log::warn!("cannot accept connections: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Who it is, if it may come in. Others are closed before a byte is read or written.
fn admit(app: &App, stream: &UnixStream) -> Option<Peer> {
    let credentials = stream
        .peer_cred()
        .inspect_err(|error| log::warn!("a peer without credentials: {error}"))
        .ok()?;
    let peer = Peer {
        transport: Transport::Unix,
        uid: credentials.uid(),
        pid: credentials.pid(),
        numbering: admission::numbering_of(credentials.pid()),
    };
    let is_ours = peer.uid == rustix::process::geteuid().as_raw();
    if is_ours || peer.is_root() || app.options.allow_uids.contains(&peer.uid) {
        return Some(peer);
    }
    log::debug!("user {} was turned away", peer.uid);
    None
}

async fn connection(
    app: Arc<App>,
    stream: UnixStream,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
) {
    let unanswered = Unanswered::default();
    let registry = app.reaper.registry().clone();
    let noted = unanswered.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(noted.clone());
        let answered = routes::answer(app.clone(), peer, request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let io = Answering {
        inner: Guard::new(stream),
        unanswered: unanswered.clone(),
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A slow or broken peer; hyper's words hold nothing that it sent.
        log::debug!("a connection ended: {error}");
    }
    unanswered.take_back(&registry);
}

/// A panic ends its own connection and nothing else.
fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        log::error!("a request handler panicked; its connection was closed");
    }
}
