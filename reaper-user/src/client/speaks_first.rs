//! A connection whose client always speaks first, as hyper expects. The daemon refuses some users as
//! soon as they connect: its error can arrive, and the connection can be closed, before the request is
//! sent. Hyper would report a broken connection then, and the error would be lost.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Withholds what arrives until something was written. What cannot be written because the other end
/// has closed is dropped; reading then shows the last response, or the end.
#[derive(Debug)]
pub(super) struct SpeaksFirst<S> {
    inner: S,
    has_written: bool,
    reader: Option<Waker>,
}

impl<S> SpeaksFirst<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            has_written: false,
            reader: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SpeaksFirst<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_written {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SpeaksFirst<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            Poll::Ready(written) => written,
            Poll::Pending => return Poll::Pending,
        };
        self.has_written = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
