//! The side of the successor. It has one thread and has not become two processes yet, so all this
//! blocks; what was received is inherited by its worker.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use serde::{Deserialize, Serialize};

use super::message::{Connection, FORMAT, Frame, Message, Receiver, Rest};
use super::{LIMIT, retain};
use crate::client::{Client, ClientError};
use crate::daemon::carried::{Carried, TABLE_FORMAT};
use crate::daemon::descriptors;

/// How much longer than the former daemon the successor waits, which learns of its decision.
const LONGER: Duration = Duration::from_secs(2);

/// The descriptors that come in any case: memory file, secrets, listening socket and lock file.
const BELONGINGS: usize = 4;

/// Why the running daemon was not replaced. It goes on.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("the running daemon cannot be asked: {0}")]
    Client(#[from] ClientError),
    #[error("the running daemon is too old to be replaced while it runs")]
    TooOld,
    #[error("the running daemon keeps its place: {0}")]
    Kept(String),
    #[error("the sessions of the running daemon cannot be read: {0}")]
    Unusable(String),
    #[error("the running daemon does not respond any more: {0}")]
    Lost(#[from] io::Error),
}

impl NotTaken {
    /// Returns the remedy, for the line behind `try:`.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::TooOld | Self::Unusable(_) => "stop it, and start this one without --replace",
            Self::Client(_) | Self::Kept(_) | Self::Lost(_) => {
                "read the log of the running daemon; reaperd doctor"
            }
        }
    }
}

/// The body of the request.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    /// The format of the messages.
    pub(crate) format: u32,
    /// The newest format of the memory with the sessions that the successor reads.
    pub(crate) table_format: u32,
}

/// The response to it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Granted {
    pub(crate) ok: bool,
}

/// What the former daemon has given.
pub(crate) struct Taken {
    link: UnixStream,
    receiver: Receiver,
    pub(crate) rest: Rest,
    pub(crate) connections: Vec<(Connection, OwnedFd)>,
    /// The listening socket of metrics over TCP.
    pub(crate) metrics_listener: Option<OwnedFd>,
    /// That of the API over TCP.
    pub(crate) tcp_listener: Option<OwnedFd>,
}

/// Asks the daemon of this client to hand over, and receives everything. Returns `None` if there is no
/// daemon.
pub(crate) fn take_over(client: &Client) -> Result<Option<(Taken, Carried)>, NotTaken> {
    descriptors::raise_open_file_limit();
    let asked = Asked {
        format: FORMAT,
        table_format: TABLE_FORMAT,
    };
    let request = client.post_and_keep::<Granted>("/v1/daemon/replace", &asked);
    // Not by `runtime::build`, whose thread may still exist when this process forks.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build()?;
    let link = match runtime.block_on(request) {
        Ok((_granted, stream)) => stream,
        Err(ClientError::NoDaemon { .. }) => return Ok(None),
        Err(ClientError::Problem { status: 404, .. }) => return Err(NotTaken::TooOld),
        Err(error) => return Err(error.into()),
    };
    // The runtime must be gone before this process forks.
    drop(runtime);
    link.set_nonblocking(false)?;
    link.set_read_timeout(Some(LIMIT + LONGER))?;
    link.set_write_timeout(Some(LIMIT + LONGER))?;
    Frame::of(&Message::Begin)?.send(&link, &[])?;
    receive(link).map(Some)
}

fn receive(link: UnixStream) -> Result<(Taken, Carried), NotTaken> {
    let mut receiver = Receiver::default();
    let mut connections = Vec::new();
    loop {
        let (message, mut fds) = receiver.receive(&link)?;
        match message {
            Message::Connection(connection) => {
                let [socket] = exactly(fds)?;
                connections.push((connection, socket));
            }
            Message::Rest(rest) => {
                let tcp_listener = rest.has_tcp.then(|| fds.pop()).flatten();
                let metrics_listener = (fds.len() > BELONGINGS).then(|| fds.pop()).flatten();
                let [table, secrets, listener, lock] = exactly::<BELONGINGS>(fds)?.map(Some);
                let carried = Carried {
                    table,
                    secrets,
                    listener,
                    lock,
                    settings: None,
                    restarts: 0,
                    lent_by: Some(link.as_fd().try_clone_to_owned()?),
                };
                let taken = Taken {
                    link,
                    receiver,
                    rest,
                    connections,
                    metrics_listener,
                    tcp_listener,
                };
                return Ok((taken, carried));
            }
            message => return Err(unexpected(message)),
        }
    }
}

impl Taken {
    /// Reports that this process can serve, and returns once the former daemon has stopped for ever.
    pub(crate) fn go(&mut self) -> Result<(), NotTaken> {
        Frame::of(&Message::Ready)?.send(&self.link, &[])?;
        let limit = Timespec::try_from(LIMIT + LONGER).ok();
        let mut polled = [PollFd::new(&self.link, PollFlags::IN)];
        poll(&mut polled, limit.as_ref()).map_err(io::Error::from)?;
        if has_gone(&self.link)? {
            // From here on the monitor replaces this worker if it is killed. Until then it finds the
            // message itself.
            retain();
        }
        match self.receiver.receive(&self.link)? {
            (Message::Go, _) => {
                // If it came later than the look above.
                retain();
                Ok(())
            }
            (message, _) => Err(unexpected(message)),
        }
    }

    /// Reports why this process cannot serve.
    pub(crate) fn give_up(&self, reason: &str) {
        let frame = Frame::of(&Message::Failed(reason.to_owned()));
        let sent = frame.and_then(|mut frame| frame.send(&self.link, &[]));
        if let Err(error) = sent {
            log::debug!("the former daemon does not get the reason: {error}");
        }
    }
}

/// Returns whether the former daemon has sent its last message. Leaves it to be received.
pub(crate) fn has_gone(link: impl AsFd) -> io::Result<bool> {
    let last = Frame::of(&Message::Go)?;
    let mut found = vec![0; last.bytes().len()];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match recv(link, &mut found[..], flags) {
        Ok((length, _)) => Ok(found[..length] == *last.bytes()),
        Err(Errno::AGAIN) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn unexpected(message: Message) -> NotTaken {
    match message {
        Message::Failed(reason) => NotTaken::Kept(reason),
        _ => NotTaken::Lost(io::ErrorKind::InvalidData.into()),
    }
}

fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    <[OwnedFd; N]>::try_from(fds).map_err(|_others| io::ErrorKind::InvalidData.into())
}
