//! Whether one connection is held: it begins no further message, so that its socket can go to a
//! successor between two messages. What the client sends meanwhile waits in the socket, and whichever
//! process goes on with the connection reads it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Ticket;
use super::message::StreamPosition;

/// The hold of one connection. Shared by what reads it, what writes it and what serves it.
#[derive(Clone, Default)]
pub(crate) struct Hold(Arc<State>);

#[derive(Default)]
struct State {
    is_requested: AtomicBool,
    /// Reading has stopped at the beginning of a message.
    is_reached: AtomicBool,
    /// The stream of events that this connection carries, stopped between two events.
    stream: Mutex<Option<StreamPosition>>,
    wants_duplicate: AtomicBool,
    duplicate: Mutex<Option<OwnedFd>>,
    /// The peer of this connection is the successor. It carries no further request, so that this hold
    /// does not end.
    is_successors: AtomicBool,
    ticket: Mutex<Option<Ticket>>,
}

impl Hold {
    /// Begins or ends the hold. The connection must be polled afterwards.
    pub(crate) fn set(&self, is_held: bool) {
        let is_held = is_held || self.0.is_successors.load(Ordering::Relaxed);
        self.0.is_requested.store(is_held, Ordering::Relaxed);
        if !is_held {
            self.0.is_reached.store(false, Ordering::Relaxed);
            *self.stream() = None;
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_requested.load(Ordering::Relaxed)
    }

    /// Called before a message begins to be read. Returns whether it must wait.
    pub(crate) fn stops_reading(&self) -> bool {
        let stops = self.is_set();
        self.0.is_reached.store(stops, Ordering::Relaxed);
        stops
    }

    /// Returns whether no byte of a further message will be read.
    pub(crate) fn has_stopped_reading(&self) -> bool {
        self.0.is_reached.load(Ordering::Relaxed)
    }

    /// Called by a stream that has stopped at this position.
    pub(crate) fn stop_stream(&self, position: StreamPosition) {
        *self.stream() = Some(position);
    }

    pub(crate) fn stopped_stream(&self) -> Option<StreamPosition> {
        self.stream().clone()
    }

    /// Marks the connection as that of the successor.
    pub(crate) fn give_ticket(&self, ticket: Ticket) {
        *lock(&self.0.ticket) = Some(ticket);
        self.0.is_successors.store(true, Ordering::Relaxed);
        self.set(true);
    }

    pub(crate) fn take_ticket(&self) -> Option<Ticket> {
        lock(&self.0.ticket).take()
    }

    /// Asks for a duplicate of the socket, which the next poll of the connection makes.
    pub(crate) fn request_duplicate(&self) {
        self.0.wants_duplicate.store(true, Ordering::Relaxed);
    }

    /// Called when nothing is left to be written to the socket.
    pub(crate) fn offer(&self, socket: impl AsFd) {
        if self.0.wants_duplicate.swap(false, Ordering::Relaxed) {
            let duplicate = rustix::io::fcntl_dupfd_cloexec(socket, 0)
                .inspect_err(|errno| log::warn!("a connection cannot be handed over: {errno}"));
            *lock(&self.0.duplicate) = duplicate.ok();
        }
    }

    pub(crate) fn take_duplicate(&self) -> Option<OwnedFd> {
        lock(&self.0.duplicate).take()
    }

    fn stream(&self) -> MutexGuard<'_, Option<StreamPosition>> {
        lock(&self.0.stream)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
