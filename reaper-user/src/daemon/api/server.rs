//! Accepts connections and serves them until the daemon stops.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connection_budget::{ConnectionBudget, ConnectionSlot};
use super::listener::Socket;
use super::undelivered::{DeliveryTracker, UndeliveredSessions};
use super::{App, Peer, Transport, authorize, routes};
use crate::daemon::http::framing::FramingFilter;
use crate::daemon::http::secrets::SecretQueue;

/// How long a head may take, and how long a connection may idle between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Larger than the largest head that the framing filter passes. Bounds what is buffered for a slow
/// reader.
const BUFFER: usize = 64 * 1024;
/// The pause after a failed accept, for lack of descriptors or memory. The connection that is
/// closed then takes a moment to end; retrying at once would only use the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the socket file is checked.
const SOCKET_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long connections may take to end at shutdown. The others are aborted.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(1_500);

/// Serves until `stop` turns true, ends every connection and removes the socket.
pub(crate) async fn serve(app: Arc<App>, mut socket: Socket, mut stop: watch::Receiver<bool>) {
    let mut acceptor = Acceptor::new(app.descriptors.connections);
    let mut connections = JoinSet::new();
    let mut socket_checks = interval(SOCKET_CHECK_INTERVAL);
    socket_checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = stop.clone();
    loop {
        tokio::select! {
            () = stop_requested(&mut stop) => break,
            _ = socket_checks.tick() => socket.restore(),
            Some(ended) = connections.join_next() => report_panic(ended),
            (stream, slot) = acceptor.next(&socket.listener) => {
                if let Some(peer) = authorize_peer(&app, &stream) {
                    let connection = connection(app.clone(), stream, peer, stopping.clone(), slot);
                    connections.spawn(connection);
                }
            }
        }
    }
    // From here on no client can connect, and another daemon can take the path.
    socket.remove();
    app.reaper.registry().publish_shutdown(crate::clock::now());
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_GRACE, all_ended).await.is_err() {
        log::debug!("{} connections are aborted", connections.len());
        connections.shutdown().await;
    }
}

/// Waits for the request to stop. A dropped sender counts as one: the daemon is gone.
async fn stop_requested(stop: &mut watch::Receiver<bool>) {
    let _result = stop.wait_for(|stop| *stop).await.is_ok();
}

/// Accepts connections and takes slots for them.
struct Acceptor {
    budget: Arc<ConnectionBudget>,
    /// Accepted, and without a slot yet.
    accepted: Option<UnixStream>,
    /// Consecutive failed attempts.
    failures: u64,
    /// Idle connections closed during these.
    closed: u64,
}

impl Acceptor {
    fn new(connections: usize) -> Self {
        Self {
            budget: ConnectionBudget::new(connections),
            accepted: None,
            failures: 0,
            closed: 0,
        }
    }

    /// Returns the next connection and its slot. Cancel-safe: an accepted connection is kept for
    /// the next call.
    async fn next(&mut self, listener: &UnixListener) -> (UnixStream, ConnectionSlot) {
        loop {
            // Moved out only after the slot is taken: this future may be dropped while it waits for
            // one.
            if self.accepted.is_some() {
                let slot = self.budget.take().await;
                if let Some(stream) = self.accepted.take() {
                    return (stream, slot);
                }
            }
            match listener.accept().await {
                Ok((stream, _)) => {
                    self.accepted = Some(stream);
                    self.recovered();
                }
                Err(error) => {
                    // The kernel allocates the descriptor before it checks for a connection
                    // (`__sys_accept4_file`), so this may fail without one.
                    // https://elixir.bootlin.com/linux/v6.12/source/net/socket.c
                    if is_readable(listener) {
                        self.failed(&error);
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// EMFILE (limit of this process) and ENFILE (limit of the system), accept(2), end only once a
    /// file is closed. Waiting alone may not achieve that, so an idle connection is closed.
    fn failed(&mut self, error: &io::Error) {
        // Logged once, however long it lasts.
        if self.failures == 0 {
            log::warn!("cannot accept connections: {error}");
        }
        self.failures += 1;
        let errno = Errno::from_io_error(error);
        let is_short = matches!(errno, Some(Errno::MFILE | Errno::NFILE));
        if is_short && self.budget.close_longest_idle() {
            self.closed += 1;
        }
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            let Self {
                failures, closed, ..
            } = self;
            log::info!(
                "connections are accepted again, after {failures} failures; {closed} idle ones were \
                 closed"
            );
            (self.failures, self.closed) = (0, 0);
        }
    }
}

/// Returns whether a connection waits to be accepted. If poll(2) fails, one is assumed.
fn is_readable(listener: &UnixListener) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_err() || !fds[0].revents().is_empty()
}

/// Returns the peer, if it may connect. Other connections are closed before a byte is read or
/// written.
fn authorize_peer(app: &App, stream: &UnixStream) -> Option<Peer> {
    let credentials = stream
        .peer_cred()
        .inspect_err(|error| log::warn!("cannot read the credentials of a peer: {error}"))
        .ok()?;
    let uid = credentials.uid();
    let is_ours = uid == rustix::process::geteuid().as_raw();
    if !is_ours && uid != 0 && !app.options.allow_uids.contains(&uid) {
        log::debug!("a connection of user {uid} was refused");
        return None;
    }
    // Read last, so that refused users cause no work.
    Some(Peer {
        transport: Transport::Unix,
        uid,
        pid: credentials.pid(),
        pid_ns: authorize::pid_ns_of(credentials.pid()),
    })
}

async fn connection(
    app: Arc<App>,
    stream: UnixStream,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
    slot: ConnectionSlot,
) {
    let slot = Arc::new(slot);
    let request_slot = slot.clone();
    let undelivered = UndeliveredSessions::default();
    let registry = app.reaper.registry().clone();
    let for_requests = undelivered.clone();
    let secrets = SecretQueue::new(registry.clone());
    let next_secrets = secrets.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = request_slot.busy();
        request.extensions_mut().insert(for_requests.clone());
        let responding = routes::respond(app.clone(), peer, request, next_secrets.next());
        async {
            let response = responding.await;
            Ok::<_, Infallible>(response.map(|body| busy.until_written(body)))
        }
    });
    let io = DeliveryTracker {
        inner: FramingFilter::new(stream, secrets),
        undelivered: undelivered.clone(),
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop_requested(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        // An idle connection closes at once. A request that has arrived meanwhile gets its
        // response.
        () = slot.close_requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A slow or broken peer. The text is hyper's and contains nothing that the peer sent.
        log::debug!("a connection ended: {error}");
    }
    undelivered.remove_all(&registry);
}

/// Logs a panic. It ends only its own connection.
fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        log::error!("a request handler panicked; its connection was closed");
    }
}
