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

    #[cfg(feature = "cli")]
    pub(super) fn into_inner(self) -> S {
        self.inner
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

impl<S> SpeaksFirst<S> {
    /// Lets the reader go on once something was written. `length` is what should have been written.
    fn written(
        &mut self,
        outcome: Poll<io::Result<usize>>,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        let outcome = match outcome {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(length),
            Poll::Ready(outcome) => outcome,
        };
        self.has_written = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SpeaksFirst<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.written(outcome, bytes.len())
    }

    /// Without this, hyper would copy a request with its token into one more buffer.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.written(outcome, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_response_that_came_before_the_request_is_read_after_it() {
        let (mut server, client) = tokio::net::UnixStream::pair().unwrap();
        let mut client = SpeaksFirst::new(client);
        server.write_all(b"no").await.unwrap();
        drop(server);
        let mut first = [0; 1];
        let early = std::future::poll_fn(|cx| {
            let mut out = ReadBuf::new(&mut first);
            Poll::Ready(Pin::new(&mut client).poll_read(cx, &mut out).is_pending())
        });
        assert!(early.await, "nothing is read before the request");
        client.write_all(b"request").await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert_eq!(response, "no");
    }
}
