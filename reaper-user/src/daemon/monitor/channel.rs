//! The requests of the worker to the monitor, over a socket pair that keeps messages apart.
//!
//! A request has one byte that says what is wanted, and fields of fixed size; anything else is
//! refused. So the monitor parses nothing. Requests are served one after the other.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::daemon::systemd::{self, State};

/// A request: what is wanted, and one argument.
const REQUEST: usize = 2;
/// Asks for a notification to the service manager; the argument is a [`State`].
const NOTIFY: u8 = 1;
/// The first byte of a reply.
const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// The worker's end.
pub(super) struct Channel(Mutex<OwnedFd>);

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket))
    }

    pub(super) fn notify(&self, state: State) -> io::Result<()> {
        self.request([NOTIFY, state as u8])
    }

    /// Sends a request and waits for the reply.
    fn request(&self, request: [u8; REQUEST]) -> io::Result<()> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&*socket, &request, SendFlags::NOSIGNAL)?;
        let mut reply = [REFUSED];
        match recv(&*socket, &mut reply, RecvFlags::empty())? {
            (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
            _ if reply == [DONE] => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Yes,
    /// The worker has closed its end.
    Closed,
}

/// Serves the next request. In the monitor.
pub(super) fn answer(socket: &OwnedFd) -> Answered {
    // One byte more, so that a longer message is not taken for a request.
    let mut request = [0; REQUEST + 1];
    let received = recv(socket, &mut request, RecvFlags::DONTWAIT);
    let reply = match received {
        Ok((0, _)) => return Answered::Closed,
        Ok((REQUEST, _)) => serve([request[0], request[1]]),
        Ok(_) => REFUSED,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Answered::Yes,
        Err(_) => return Answered::Closed,
    };
    // A worker that has ended needs no reply.
    send(socket, &[reply], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
        .map_or(Answered::Closed, |_| Answered::Yes)
}

fn serve([what, argument]: [u8; REQUEST]) -> u8 {
    match (what, State::from_byte(argument)) {
        (NOTIFY, Some(state)) => {
            systemd::send(state);
            DONE
        }
        _ => REFUSED,
    }
}
