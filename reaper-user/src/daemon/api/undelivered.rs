//! Registrations that are to hold only if their answer reaches the caller.
//!
//! A caller that gives up on the daemon and goes on without a session must not get one later. It asks
//! for that with `"if_answered": true`, and when it gives up it shuts its end down for reading and then
//! takes what has already been sent. On Linux that settles the matter once: a write to a Unix socket
//! looks under the peer's lock whether the peer still reads (`unix_stream_sendmsg` in
//! `net/unix/af_unix.c`, v6.12, and `unix_shutdown` beside it), so either the answer is in the caller's
//! queue before, or the write fails with `EPIPE` and the registration is taken back here.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use reaper_registry::{Registry, Removal, Session};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock;

/// What was stored by one connection and whose answer has not been written yet.
#[derive(Clone, Default)]
pub(super) struct UndeliveredSessions(Arc<Mutex<Vec<Arc<Session>>>>);

impl UndeliveredSessions {
    /// Has this session depend on its answer, which is returned without waiting from here on.
    pub(super) fn add(&self, session: Arc<Session>) {
        self.sessions().push(session);
    }

    /// Removes what was never answered; the connection has ended. A session that was renewed since then
    /// was answered to another connection.
    pub(super) fn remove_all(&self, registry: &Registry) {
        for session in self.sessions().drain(..) {
            registry.remove_unchanged(&session, Removal::Requested, clock::now());
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that notes when everything that was to be written has been written.
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
        // Hyper puts a whole answer into its buffer in the turn in which the service returns it, and
        // flushes here once that buffer is empty.
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        this.undelivered.sessions().clear();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
