//! The socket of a connection, and what its reads and writes show about it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, Version};
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use super::super::stream::ClientStream;
use super::ConnectionSlot;
use crate::daemon::handover::Hold;
use crate::daemon::http::body::ResponseBody;

/// The response field that announces how long a connection is kept, as Node's client reads it.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What a connection does next.
pub(super) struct Phase {
    /// The value of `keep-alive`.
    keep_alive: HeaderValue,
    /// It closes, after the requests that have arrived.
    pub(super) closing: AtomicBool,
    /// Its response ends with the connection. What else arrives is never read.
    pub(super) last_response: AtomicBool,
    /// Something is to be written, and the socket takes no more. Hyper has the response in its buffer,
    /// and the body is gone already, so that the connection counts as idle.
    pub(super) is_blocked: AtomicBool,
}

impl Phase {
    pub(super) fn new(keep_alive: Duration) -> Self {
        let timeout = HeaderValue::try_from(format!("timeout={}", keep_alive.as_secs()));
        Self {
            keep_alive: timeout.expect("letters and digits"),
            closing: AtomicBool::new(false),
            last_response: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
        }
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        self.is_blocked
            .store(written.is_pending(), Ordering::Relaxed);
    }

    /// Adds to a response how long the connection is kept, or that it is not.
    pub(super) fn announce(&self, is_kept: bool, response: &mut Response<ResponseBody>) {
        // Only event streams have this version: they have no length and no chunks.
        if response.version() == Version::HTTP_10 {
            self.last_response.store(true, Ordering::Relaxed);
        }
        let fields = response.headers_mut();
        if self.closing.load(Ordering::Relaxed) {
            fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if is_kept && !fields.contains_key(header::CONNECTION) {
            fields.insert(KEEP_ALIVE, self.keep_alive.clone());
        }
    }
}

/// The socket of a connection.
///
/// - Before an idle connection is closed, it is shut down for reading. From then on the peer cannot
///   write; what it wrote before is still read and answered. So no request is lost between the last
///   read and the close: it is answered, or was never written (`EPIPE`, [`unix_stream_sendmsg`]).
/// - During the last response the socket is read although hyper does not want more: hyper stops
///   reading once it has a part of another request, and would not notice that the peer has gone.
///
/// [`unix_stream_sendmsg`]: https://elixir.bootlin.com/linux/v6.12/source/net/unix/af_unix.c
pub(super) struct ConnectionIo {
    stream: ClientStream,
    slot: Arc<ConnectionSlot>,
    phase: Arc<Phase>,
    hold: Hold,
    /// The state of the connection, as [`ConnectionSlot::changes`], in which the last bytes arrived.
    /// `None` if they have been waited for since.
    read_in: Option<u64>,
    is_shut: bool,
}

impl ConnectionIo {
    pub(super) fn new(
        stream: ClientStream,
        slot: Arc<ConnectionSlot>,
        phase: Arc<Phase>,
        hold: Hold,
    ) -> Self {
        Self {
            stream,
            slot,
            phase,
            hold,
            read_in: None,
            is_shut: false,
        }
    }

    /// Discards what arrives, and returns an error once the peer has gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // A token may be in them.
        let mut discarded = Zeroizing::new([0; 512]);
        loop {
            let mut part = ReadBuf::new(discarded.as_mut());
            match Pin::new(&mut self.stream).poll_read(cx, &mut part) {
                Poll::Pending => return Ok(()),
                Poll::Ready(read) => read?,
            }
            if part.filled().is_empty() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }
}

impl AsyncRead for ConnectionIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.phase.closing.load(Ordering::Relaxed) && !this.is_shut {
            this.is_shut = true;
            shutdown(&this.stream, Shutdown::Read)?;
        }
        let before = out.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, out);
        match &read {
            Poll::Ready(_) => {
                let has_read = out.filled().len() > before;
                if this.is_shut && !has_read && this.slot.is_busy() {
                    // For hyper, the end of the stream during a request is a peer that has gone, and
                    // it would drop the response. It closes after the response in any case.
                    return Poll::Pending;
                }
                this.read_in = has_read.then(|| this.slot.changes());
            }
            Poll::Pending => {
                let read_in = this.read_in.take();
                // Otherwise they were of a request that has been answered.
                if read_in.is_some_and(|state| state == this.slot.changes()) {
                    this.slot.is_incomplete();
                }
            }
        }
        read
    }
}

impl AsyncWrite for ConnectionIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.phase.note_write(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.phase.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper calls this whenever the connection is polled and nothing is left to write.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.phase.last_response.load(Ordering::Relaxed) {
            this.poll_gone(cx)?;
        }
        this.hold.offer(&this.stream);
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
