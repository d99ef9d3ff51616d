//! Drives one connection until its peer, its idle time or the daemon ends it, or until another process
//! has it.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use tokio::sync::watch;

use super::super::Transport;
use super::super::connection_budget::Ending;
use super::Place;
use crate::daemon::handover::{Hold, Mode, Parked, message};

/// What a connection that is held does next.
enum Next<E> {
    /// The hold is over. It goes on here.
    GoesOn,
    Ended(Result<(), E>),
    /// Another process has it, or will have it.
    Moved,
}

/// Serves `connection`. At the daemon's end it is asked to `stop`.
pub(super) async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    mut mode: watch::Receiver<Mode>,
    place: &Place,
    stop: impl Fn(Pin<&mut C>),
) -> Result<(), E>
where
    C: Future<Output = Result<(), E>>,
{
    let Place {
        slot, phase, hold, ..
    } = place;
    // The present mode counts as a change.
    mode.mark_changed();
    loop {
        tokio::select! {
            polled = until_movable(connection.as_mut(), place) => match polled {
                Some(ended) => return ended,
                None => match park(connection.as_mut(), &mut mode, place).await {
                    Next::GoesOn => {}
                    Next::Ended(ended) => return ended,
                    Next::Moved => return Ok(()),
                },
            },
            changed = mode.changed() => {
                let is_held = match (changed, &*mode.borrow_and_update()) {
                    (Ok(()), Mode::Serving) => Some(false),
                    (Ok(()), Mode::Held(_) | Mode::Gone) => Some(true),
                    // Without a sender the daemon is gone.
                    (Err(_), _) | (Ok(()), Mode::Stopping) => None,
                };
                hold.set(is_held.unwrap_or(false));
                if is_held.is_none() {
                    stop(connection.as_mut());
                    return connection.await;
                }
            }
            ending = slot.ending() => {
                return match ending {
                    Ending::SlowHead => Ok(()),
                    // Its peer does not read, and could delay the close for as long as a reader may take.
                    Ending::Idle if phase.is_blocked.load(Ordering::Relaxed) => Ok(()),
                    Ending::Idle => {
                        hold.set(false);
                        phase.closing.store(true, Ordering::Relaxed);
                        connection.await
                    }
                };
            }
        }
    }
}

/// Returns the result of the connection, or `None` once nothing of it is left in this process but its
/// socket: no part of a message has been read, and no part of a response is to be written.
async fn until_movable<C: Future>(mut connection: Pin<&mut C>, place: &Place) -> Option<C::Output> {
    let Place {
        slot, phase, hold, ..
    } = place;
    let is_movable = || {
        hold.is_set()
            && !phase.is_blocked.load(Ordering::Relaxed)
            && (hold.stopped_stream().is_some() || (hold.has_stopped_reading() && !slot.is_busy()))
    };
    poll_fn(|cx| match connection.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if is_movable() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Offers the socket to the other process, and waits for the outcome.
async fn park<C, E>(
    mut connection: Pin<&mut C>,
    mode: &mut watch::Receiver<Mode>,
    place: &Place,
) -> Next<E>
where
    C: Future<Output = Result<(), E>>,
{
    let hold = &place.hold;
    if let Some(ticket) = hold.take_ticket() {
        // The successor itself: the rest is no HTTP.
        return match duplicate(connection.as_mut(), hold).await {
            Err(ended) => Next::Ended(ended),
            Ok(socket) => {
                ticket.start(socket);
                Next::Moved
            }
        };
    }
    let giving = match &*mode.borrow() {
        Mode::Held(giving) => Some(giving.clone()),
        Mode::Gone => return Next::Moved,
        Mode::Serving | Mode::Stopping => None,
    };
    if let Some(giving) = giving {
        let turn = tokio::select! {
            turn = giving.turn() => turn,
            _ = mode.changed() => {
                mode.mark_changed();
                return Next::GoesOn;
            }
        };
        let socket = match duplicate(connection.as_mut(), hold).await {
            Err(ended) => return Next::Ended(ended),
            Ok(socket) => socket,
        };
        let connection = message::Connection {
            pin: place.peer.pin.into(),
            was_used: !place.slot.is_new(),
            stream: hold.stopped_stream(),
            is_tcp: place.peer.transport != Transport::Unix,
        };
        giving.add(Parked {
            socket,
            connection,
            turn,
        });
    }
    if mode.changed().await.is_ok() {
        mode.mark_changed();
    }
    Next::GoesOn
}

/// Returns a duplicate of the socket, `None` for lack of descriptors, or the end of the connection.
async fn duplicate<C: Future>(
    mut connection: Pin<&mut C>,
    hold: &Hold,
) -> Result<Option<OwnedFd>, C::Output> {
    hold.request_duplicate();
    // A connection that has nothing to write flushes its socket, which is duplicated then.
    match poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await {
        Poll::Ready(ended) => Err(ended),
        Poll::Pending => Ok(hold.take_duplicate()),
    }
}
