//! The side of the daemon that is replaced.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::message::{Frame, Message, Receiver, Rest};
use super::{Giving, LIMIT, Mode, Parked, Request, let_go_by_monitor, retain};
use crate::daemon::api::App;
use crate::daemon::api::listener::Socket;
use crate::daemon::api::server::{report_panic, stop_requested};
use crate::daemon::run::main_pid;
use crate::reaper::Ended;

/// How long requests in progress may take. A client that sends or reads slowly must not make all others
/// wait for longer: its connection ends with this process.
const DRAINED_WITHIN: Duration = Duration::from_millis(500);
/// The pause after the system has refused to pass a descriptor on, because too many are under way.
const TOO_MANY_PAUSE: Duration = Duration::from_millis(5);

/// How a hand-over has failed.
#[derive(Debug, thiserror::Error)]
enum Kept {
    #[error("it took longer than {} s", LIMIT.as_secs())]
    TooLong,
    #[error("the successor has ended or cannot be reached: {0}")]
    Lost(#[from] io::Error),
    #[error("the successor cannot start: {0}")]
    Failed(String),
    #[error("the monitor cannot send it the last message: {0}")]
    NotLetGo(io::Error),
    #[error("the successor sent another message than expected")]
    Unexpected,
    #[error("this daemon is stopping")]
    Stopping,
    #[error("its socket belongs to the service manager, which must restart the daemon itself")]
    Activated,
}

/// What is counted for the log.
#[derive(Default)]
struct Moved {
    connections: usize,
    streams: usize,
}

/// What is given away.
pub(crate) struct All<'a> {
    pub(crate) app: &'a App,
    pub(crate) socket: &'a Socket,
    pub(crate) connections: &'a mut JoinSet<()>,
}

impl Request {
    /// Hands everything over. Returns whether the successor has it now; otherwise all is as before.
    pub(crate) async fn serve(
        self,
        to: &watch::Sender<Mode>,
        all: All<'_>,
        stop: &mut watch::Receiver<bool>,
    ) -> bool {
        let deadline = Instant::now() + LIMIT;
        let app = all.app;
        let successor = self.ticket.successor.unwrap_or_default();
        log::info!("process {successor} asks to replace this daemon");
        let mut link = match Link::new(self.socket) {
            Ok(link) => link,
            Err(error) => {
                log::warn!("process {successor} does not replace this daemon: {error}");
                return false;
            }
        };
        let handed = tokio::select! {
            handed = timeout_at(deadline, hand_over(&mut link, to, all)) => {
                handed.unwrap_or(Err(Kept::TooLong))
            }
            () = stop_requested(stop) => Err(Kept::Stopping),
        };
        match handed {
            Ok(Moved {
                connections,
                streams,
            }) => {
                to.send_replace(Mode::Gone);
                log::info!(
                    "process {successor} has replaced this daemon; it has {connections} connections, \
                     of these {streams} event streams"
                );
                true
            }
            Err(kept) => {
                log::warn!(
                    "process {successor} does not replace this daemon, which goes on: {kept}"
                );
                retain();
                app.belongings.take_back();
                app.secret_memory.end_pause();
                app.reaper.end_pause(Ended::default());
                to.send_replace(Mode::Serving);
                // It may have ended already.
                let failed = Message::Failed(kept.to_string());
                link.send(&failed, &[]).await.unwrap_or_default();
                false
            }
        }
    }
}

async fn hand_over(link: &mut Link, to: &watch::Sender<Mode>, all: All<'_>) -> Result<Moved, Kept> {
    let All {
        app,
        socket,
        connections,
    } = all;
    let lock = socket.lock_file().ok_or(Kept::Activated)?;
    link.expect(|message| matches!(message, Message::Begin))
        .await?;
    let moved = give_connections(link, to, connections).await?;
    app.reaper.pause();
    app.secret_memory.pause();
    let rest = Rest {
        replaced: app.handovers.replaced + 1,
        has_tcp: app.tcp.is_some(),
        pid: main_pid(),
    };
    let [table, secrets] = app.belongings.descriptors()?;
    let mut fds = vec![
        table.as_fd(),
        secrets.as_fd(),
        socket.listener.as_fd(),
        lock,
    ];
    fds.extend(app.metrics_listener.as_ref().map(|it| it.as_fd()));
    fds.extend(app.tcp.as_ref().map(|door| door.listener.as_fd()));
    link.send(&Message::Rest(rest), &fds).await?;
    link.expect(|message| matches!(message, Message::Ready))
        .await?;
    log::debug!("the successor is ready");
    match let_go_by_monitor(link.socket.as_fd()) {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            // A monitor that has only been slow must not send it any more.
            shutdown(&link.socket, Shutdown::Both).unwrap_or_default();
            return Err(Kept::NotLetGo(error));
        }
        None => link.send(&Message::Go, &[]).await?,
    }
    Ok(moved)
}

/// Sends the last message. The successor reads nothing but this, so there is room for it; a socket without
/// room is not a successor's, and must not hold up the monitor.
#[cfg(target_os = "linux")]
pub(crate) fn let_go(successor: impl AsFd) -> io::Result<()> {
    Frame::of(&Message::Go)?.try_send(successor)
}

/// Sends each connection once it is between two requests.
async fn give_connections(
    link: &mut Link,
    to: &watch::Sender<Mode>,
    connections: &mut JoinSet<()>,
) -> Result<Moved, Kept> {
    let (giving, mut parked) = Giving::new();
    to.send_replace(Mode::Held(giving));
    let drained = Instant::now() + DRAINED_WITHIN;
    let mut moved = Moved::default();
    let mut waiting = 0;
    while waiting < connections.len() {
        tokio::select! {
            Some(Parked { socket, connection, turn }) = parked.recv() => {
                waiting += 1;
                let Some(socket) = socket else {
                    continue;
                };
                moved.connections += 1;
                moved.streams += usize::from(connection.stream.is_some());
                link.send(&Message::Connection(connection), &[socket.as_fd()]).await?;
                drop((socket, turn));
            }
            Some(ended) = connections.join_next() => report_panic(ended),
            () = sleep_until(drained) => {
                let left = connections.len() - waiting;
                log::info!("{left} connections are within a request, and end");
                break;
            }
        }
    }
    Ok(moved)
}

/// The connection to the successor.
struct Link {
    socket: UnixStream,
    receiver: Receiver,
}

impl Link {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: UnixStream::from_std(StdUnixStream::from(socket))?,
            receiver: Receiver::default(),
        })
    }

    async fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut frame = Frame::of(message)?;
        loop {
            let send = || frame.send(&self.socket, fds);
            match self.socket.async_io(Interest::WRITABLE, send).await {
                // The successor takes them as fast as it can.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::TOOMANYREFS) => {
                    sleep(TOO_MANY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn expect(&mut self, is_expected: impl Fn(&Message) -> bool) -> Result<(), Kept> {
        let receive = || self.receiver.receive(&self.socket);
        match self.socket.async_io(Interest::READABLE, receive).await? {
            (message, _) if is_expected(&message) => Ok(()),
            (Message::Failed(reason), _) => Err(Kept::Failed(reason)),
            _ => Err(Kept::Unexpected),
        }
    }
}
