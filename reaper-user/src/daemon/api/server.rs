//! Accepts connections and serves them until the daemon stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::admission::{Admission, USER_NOT_ALLOWED};
use super::connection_budget::ConnectionBudget;
use super::listener::{AccessList, Socket, SocketAccess};
use super::peaks::Peaks;
use super::refused::{WaitingRoom, refuse};
use super::{App, connection};
use crate::daemon::http::problem::Problem;
use crate::sys::allocator::give_back_freed;

/// The pause after a failed accept, for lack of descriptors or memory. The connection that is
/// closed then takes a moment to end; retrying at once would only use the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the socket file is checked, and whether memory can go back to the system.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long connections may take to end at shutdown. The others are aborted.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(1_500);

/// Serves until `stop` turns true, ends every connection and removes the socket.
pub(crate) async fn serve(app: Arc<App>, mut socket: Socket, mut stop: watch::Receiver<bool>) {
    let mut admission = Admission::new(&app.options(), app.table.clone());
    let budget = ConnectionBudget::new(app.accounts.clone(), app.options().keep_alive);
    let mut reloads = app.live.changes();
    let mut acceptor = Acceptor::new(budget.clone());
    let waiting_room = WaitingRoom::new(rustix::process::geteuid().as_raw());
    let mut connections = JoinSet::new();
    let mut peaks = Peaks::default();
    let mut regular_checks = interval(CHECK_INTERVAL);
    regular_checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = stop.clone();
    loop {
        tokio::select! {
            () = stop_requested(&mut stop) => break,
            _ = regular_checks.tick() => {
                socket.restore();
                if peaks.is_over(connections.len(), app.reaper.len()) {
                    // It visits all free memory, which takes some milliseconds.
                    tokio::task::spawn_blocking(give_back_freed);
                }
            }
            Some(ended) = connections.join_next() => report_panic(ended),
            Ok(()) = reloads.changed() => {
                let options = app.options();
                admission = Admission::new(&options, app.table.clone());
                budget.set_keep_alive(options.keep_alive);
                socket.change_access(SocketAccess::of(&options), AccessList::of(&options));
            }
            stream = acceptor.next(&socket.listener) => {
                // Before a place is taken: a refused user must not take one from others.
                let Some((stream, peer)) = admission.admit(stream) else {
                    app.counters.refused(USER_NOT_ALLOWED);
                    continue;
                };
                // Not in the `select!`, where another branch could cancel it after it has closed a
                // connection for this one.
                let stopping = stopping.clone();
                match budget.admit(peer.uid).await {
                    Ok(slot) => {
                        let served = connection::serve(app.clone(), stream, peer, stopping, slot);
                        connections.spawn(served);
                        peaks.connected(connections.len());
                    }
                    Err(refused) => match waiting_room.enter(peer.uid) {
                        None => {
                            let problem = Problem::from(refused);
                            app.counters.refused(problem.code());
                            refuse(stream, &problem);
                        }
                        Some(waiting) => {
                            let (app, budget) = (app.clone(), budget.clone());
                            connections.spawn(async move {
                                let admitted = waiting.admit(stream, &budget).await;
                                match admitted {
                                    Ok((stream, slot)) => {
                                        connection::serve(app, stream, peer, stopping, slot).await;
                                    }
                                    Err(problem) => app.counters.refused(problem.code()),
                                }
                            });
                        }
                    },
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
pub(super) async fn stop_requested(stop: &mut watch::Receiver<bool>) {
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
    async fn next(&mut self, listener: &UnixListener) -> UnixStream {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
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
fn is_readable(listener: &UnixListener) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_err() || !fds[0].revents().is_empty()
}

/// Logs a panic. It ends only its own connection.
fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        log::error!("a request handler panicked; its connection was closed");
    }
}
