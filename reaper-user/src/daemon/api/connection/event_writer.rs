//! Writes a stream of events whose response began in another process. Its head has been sent, and its
//! body has no framing, so that the bytes of the events are all that is left.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body as _, Buf as _, Bytes};
use tokio::io::AsyncWrite;

use super::super::events::EventStream;

/// Ends with the stream or its reader.
pub(super) struct EventWriter<S> {
    socket: S,
    events: EventStream,
    /// What is to be written next.
    piece: Bytes,
    has_ended: bool,
}

impl<S> EventWriter<S> {
    pub(super) fn new(socket: S, events: EventStream) -> Self {
        Self {
            socket,
            events,
            piece: Bytes::new(),
            has_ended: false,
        }
    }
}

impl<S: AsyncWrite + Unpin> Future for EventWriter<S> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            while !this.piece.is_empty() {
                let written = ready!(Pin::new(&mut this.socket).poll_write(cx, &this.piece))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                this.piece.advance(written);
            }
            // This also shows whether the reader has gone.
            ready!(Pin::new(&mut this.socket).poll_flush(cx))?;
            if this.has_ended {
                return Pin::new(&mut this.socket).poll_shutdown(cx);
            }
            match ready!(Pin::new(&mut this.events).poll_frame(cx)) {
                Some(Ok(frame)) => this.piece = frame.into_data().unwrap_or_default(),
                Some(Err(never)) => match never {},
                None => this.has_ended = true,
            }
        }
    }
}
