//! Registrations that are removed again unless their response reaches the caller.
//!
//! A caller that gives up on the daemon and continues without a session must not get one later. So
//! it registers with `"if_answered": true`. When it gives up, it shuts its end down for reading and
//! then reads what has already been sent. On Linux this has exactly one outcome: a write to a Unix
//! socket checks under the peer's lock whether the peer still reads ([`unix_stream_sendmsg`] and
//! `unix_shutdown`). So either the response is in the caller's queue before the shutdown, or the
//! write fails with `EPIPE` and the session is removed here.
//!
//! [`unix_stream_sendmsg`]: https://elixir.bootlin.com/linux/v6.12/source/net/unix/af_unix.c

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use reaper_registry::{Registry, Removal, Session};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock;

/// The sessions that one connection has stored and for which no response has been written yet.
#[derive(Clone, Default)]
pub(super) struct UndeliveredSessions(Arc<Mutex<Vec<Arc<Session>>>>);

impl UndeliveredSessions {
    /// Adds a session. Its response must be returned without waiting from here on.
    pub(super) fn add(&self, session: Arc<Session>) {
        self.sessions().push(session);
    }

    /// Removes the sessions without a response; the connection has ended. A session that was
    /// renewed meanwhile is kept: another connection got a response for it.
    pub(super) fn remove_all(&self, registry: &Registry) {
        for session in self.sessions().drain(..) {
            registry.remove_unchanged(&session, Removal::Requested, clock::now());
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that clears its undelivered sessions once everything is written.
pub(super) struct DeliveryTracker<S> {
    pub(super) inner: S,
    pub(super) undelivered: UndeliveredSessions,
}

impl<S: AsyncRead + Unpin> AsyncRead for DeliveryTracker<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeliveryTracker<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Hyper buffers a whole response in the poll in which the service returns it, and flushes
        // here once that buffer is empty.
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        this.undelivered.sessions().clear();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
