//! Accepts connections and serves them until the daemon stops.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};

use super::admission::Admission;
use super::connection_budget::ConnectionBudget;
use super::listener::{AccessList, Socket, SocketAccess};
use super::peaks::Peaks;
use super::refused::{WaitingRoom, refuse};
use super::stream::{ClientStream, Listener};
use super::{App, connection};
use crate::daemon::handover::give::All;
use crate::daemon::handover::message::Connection;
use crate::daemon::handover::{Mode, Request};
use crate::daemon::http::problem::{Code, Problem};
use crate::daemon::profile::pid_file::PidFile;
use crate::sys::allocator::give_back_freed;

/// The pause after a failed accept, for lack of descriptors or memory. The connection that is
/// closed then takes a moment to end; retrying at once would only use the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is checked whether memory can go back to the system.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the socket file and the pid file are checked if there is a pid file. The clients that use it
/// remove both, and then wait for one second.
const FILES_INTERVAL: Duration = Duration::from_millis(400);
/// How long connections may take to end at shutdown. The others are aborted.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(1_500);

/// How serving has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// On request. The socket is removed.
    Stopped,
    /// Another process serves on the socket.
    Replaced,
}

/// What the daemon serves at first: its socket, and what a former daemon has handed over.
pub(crate) struct Start {
    pub(crate) socket: Socket,
    pub(crate) pid_file: Option<PidFile>,
    pub(crate) taken: Vec<(Connection, OwnedFd)>,
    pub(crate) handovers: mpsc::UnboundedReceiver<Request>,
}

/// Serves until `stop` turns true, or until another process has everything, and ends every connection.
pub(crate) async fn serve(app: Arc<App>, start: Start, mut stop: watch::Receiver<bool>) -> Ended {
    let Start {
        socket,
        pid_file,
        taken,
        mut handovers,
    } = start;
    let mut reloads = app.live.changes();
    let mut server = Server::new(app);
    for (connection, fd) in taken {
        server.take(connection, fd).await;
    }
    let mut files = Files { socket, pid_file };
    let app = server.app.clone();
    let mut acceptor = Acceptor::new(server.budget.clone());
    let mut tcp_acceptor = Acceptor::new(server.budget.clone());
    let mut regular_checks = checks(CHECK_INTERVAL);
    let mut file_checks = checks(if files.pid_file.is_some() {
        FILES_INTERVAL
    } else {
        CHECK_INTERVAL
    });
    let ended = loop {
        tokio::select! {
            () = stop_requested(&mut stop) => break Ended::Stopped,
            _ = file_checks.tick() => files.restore(&app),
            _ = regular_checks.tick() => {
                if server.peaks.is_over(server.connections.len(), server.app.reaper.len()) {
                    // It visits all free memory, which takes some milliseconds.
                    let app = server.app.clone();
                    tokio::task::spawn_blocking(move || {
                        give_back_freed();
                        app.belongings.give_back();
                    });
                }
            }
            Some(ended) = server.connections.join_next() => report_panic(ended),
            Ok(()) = reloads.changed() => server.reload(&mut files.socket),
            Some(request) = handovers.recv() => {
                let all = All {
                    app: &server.app,
                    socket: &files.socket,
                    connections: &mut server.connections,
                };
                if request.serve(&server.mode, all, &mut stop).await {
                    break Ended::Replaced;
                }
            }
            stream = acceptor.next(Listener::Unix(&files.socket.listener)) => {
                server.admit(stream).await;
            }
            stream = next_over_tcp(&app, &mut tcp_acceptor) => server.admit(stream).await,
        }
    };
    if ended == Ended::Stopped {
        // From here on no client can connect, and another daemon can take the path.
        files.remove();
        let registry = server.app.reaper.registry();
        registry.publish_shutdown(crate::clock::now());
        server.mode.send_replace(Mode::Stopping);
    }
    server.end_connections().await;
    ended
}

fn checks(period: Duration) -> Interval {
    let mut checks = interval(period);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks
}

/// Returns the next connection over TCP; never ready if the daemon has no such listener.
async fn next_over_tcp(app: &App, acceptor: &mut Acceptor) -> ClientStream {
    match &app.tcp {
        Some(door) => acceptor.next(Listener::Tcp(&door.listener)).await,
        None => pending().await,
    }
}

/// The files by which clients find the daemon.
struct Files {
    socket: Socket,
    pid_file: Option<PidFile>,
}

impl Files {
    /// Restores what other programs have removed, and reports what cannot be restored.
    fn restore(&mut self, app: &App) {
        self.socket.restore();
        let access = SocketAccess::of(&app.options());
        let (socket, table) = (self.socket.path(), app.table.as_ref());
        let pid_file = self.pid_file.as_mut();
        let of_pid_file = pid_file.and_then(|file| file.restore(socket, access, table));
        let conflicts = self.socket.conflict().into_iter().chain(of_pid_file);
        app.set_conflicts(conflicts.collect());
    }

    fn remove(self) {
        if let Some(pid_file) = &self.pid_file {
            pid_file.remove();
        }
        self.socket.remove();
    }
}

/// The connections, and what decides about them.
struct Server {
    app: Arc<App>,
    admission: Admission,
    budget: Arc<ConnectionBudget>,
    waiting_room: Arc<WaitingRoom>,
    connections: JoinSet<()>,
    peaks: Peaks,
    mode: watch::Sender<Mode>,
}

impl Server {
    fn new(app: Arc<App>) -> Self {
        let admission = Admission::new(&app.options(), app.table.clone());
        let budget = ConnectionBudget::new(app.accounts.clone(), app.options().keep_alive);
        Self {
            app,
            admission,
            budget,
            waiting_room: WaitingRoom::new(rustix::process::geteuid().as_raw()),
            connections: JoinSet::new(),
            peaks: Peaks::default(),
            mode: watch::Sender::new(Mode::Serving),
        }
    }

    /// Takes over the options that are in force now.
    fn reload(&mut self, socket: &mut Socket) {
        let options = self.app.options();
        self.admission = Admission::new(&options, self.app.table.clone());
        self.budget.set_keep_alive(options.keep_alive);
        socket.change_access(SocketAccess::of(&options), AccessList::of(&options));
    }

    /// Serves a new connection, or refuses it.
    async fn admit(&mut self, stream: ClientStream) {
        // Before a place is taken: a refused user must not take one from others.
        let Some((stream, peer)) = self.admission.admit(stream, self.app.tcp.as_ref()) else {
            self.app.counters.refused(Code::UserNotAllowed);
            return;
        };
        let (app, mode) = (self.app.clone(), self.mode.subscribe());
        // Not in the `select!`, where another branch could cancel it after it has closed a
        // connection for this one.
        match self.budget.admit(peer.account()).await {
            Ok(slot) => {
                let served = connection::serve(app, stream, peer, mode, slot);
                self.connections.spawn(served);
                self.peaks.connected(self.connections.len());
            }
            Err(refused) => match self.waiting_room.enter(peer.account()) {
                None => {
                    let problem = Problem::from(refused);
                    app.counters.refused(problem.code());
                    refuse(stream, &problem);
                }
                Some(waiting) => {
                    let budget = self.budget.clone();
                    self.connections.spawn(async move {
                        match waiting.admit(stream, &budget).await {
                            Ok((stream, slot)) => {
                                connection::serve(app, stream, peer, mode, slot).await;
                            }
                            Err(problem) => app.counters.refused(problem.code()),
                        }
                    });
                }
            },
        }
    }

    /// Serves a connection of the former daemon. One that this daemon would not serve is closed.
    async fn take(&mut self, connection: Connection, fd: OwnedFd) {
        let stream = ClientStream::from_former(fd, connection.is_tcp);
        let stream = stream
            .inspect_err(|error| log::warn!("a connection cannot be taken over: {error}"))
            .ok();
        let taken = stream.and_then(|stream| {
            let tcp = self.app.tcp.as_ref();
            self.admission.take(stream, connection.pin, tcp)
        });
        let Some((stream, peer)) = taken else {
            return;
        };
        let Ok(slot) = self.budget.admit(peer.account()).await else {
            return;
        };
        let (app, mode) = (self.app.clone(), self.mode.subscribe());
        if let Some(position) = connection.stream {
            let served = connection::serve_stream(app, stream, peer, mode, slot, position);
            self.connections.spawn(served);
        } else {
            let slot = if connection.was_used {
                slot.used_before()
            } else {
                slot
            };
            let served = connection::serve(app, stream, peer, mode, slot);
            self.connections.spawn(served);
        }
        self.peaks.connected(self.connections.len());
    }

    async fn end_connections(&mut self) {
        let connections = &mut self.connections;
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_GRACE, all_ended).await.is_err() {
            log::debug!("{} connections are aborted", self.connections.len());
            self.connections.shutdown().await;
        }
    }
}

/// Waits for the request to stop. A dropped sender counts as one: the daemon is gone.
pub(in crate::daemon) async fn stop_requested(stop: &mut watch::Receiver<bool>) {
    let _result = stop.wait_for(|stop| *stop).await.is_ok();
}

/// Accepts connections.
struct Acceptor {
    budget: Arc<ConnectionBudget>,
    /// Consecutive failed attempts.
    failures: u64,
    /// Idle connections closed during these.
    closed: u64,
}

impl Acceptor {
    fn new(budget: Arc<ConnectionBudget>) -> Self {
        Self {
            budget,
            failures: 0,
            closed: 0,
        }
    }

    /// Returns the next connection. Cancel-safe, because `accept` is.
    async fn next(&mut self, listener: Listener<'_>) -> ClientStream {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    self.recovered();
                    return stream;
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
fn is_readable(listener: Listener<'_>) -> bool {
    let mut fds = [PollFd::new(&listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_err() || !fds[0].revents().is_empty()
}

/// Logs a panic. It ends only its own connection.
pub(in crate::daemon) fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        log::error!("a request handler panicked; its connection was closed");
    }
}
