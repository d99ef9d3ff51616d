//! The first reader of every connection: it lets bytes through to hyper only after the head they
//! belong to has passed [`head::check`].
//!
//! Hyper accepts some shapes that another reader would delimit differently, and it answers what it
//! refuses without a body. So each head is held back until it is complete and checked. A bad one is
//! replaced by a small head of our own that names the refusal; hyper hands that to the service in
//! its turn, behind the answers to the requests before it, and the service answers it. No client can
//! send such a head, because the guard refuses the field that marks it.
//!
//! Absent here: the time limit on heads (hyper's, since only it knows whether a response is still
//! under way) and the one on bodies (the route's).

pub(crate) mod chunks;
pub(crate) mod head;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use zeroize::{Zeroize as _, Zeroizing};

use self::chunks::Chunks;
pub(crate) use self::head::{BODY_MAX, REFUSAL_FIELD, Refusal};
use self::head::{BodyFraming, HEAD_MAX};

/// How long a peer may leave what we write unread before the connection ends: long enough for a
/// reader that was stopped for a moment, short enough that silent ones do not hold all places.
const WRITE_STALL_MAX: Duration = Duration::from_mins(1);
/// How long and how much of the rest of a refused message is read away, so that the peer can read
/// the refusal: closing over unread bytes would reset the connection under it.
const LINGER_TIME: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 1024 * 1024;

/// A connection behind the guard.
pub(crate) struct FramingFilter<S> {
    inner: S,
    /// `start..cleared` may be handed on, `cleared..end` is still to be checked. Wiped whenever it
    /// is empty, because tokens and keys pass through.
    buffer: Zeroizing<Box<[u8]>>,
    start: usize,
    cleared: usize,
    end: usize,
    state: State,
    write_stall: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

enum State {
    /// In a head; its bytes up to here hold no complete empty line.
    Head {
        scanned: usize,
    },
    Body {
        left: u64,
    },
    Chunked(Chunks),
    /// The bytes of our own head, and how many of them hyper has.
    Refused {
        head: Vec<u8>,
        given: usize,
    },
}

struct Linger {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl<S> FramingFilter<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            buffer: Zeroizing::new(vec![0; HEAD_MAX].into_boxed_slice()),
            start: 0,
            cleared: 0,
            end: 0,
            state: State::Head { scanned: 0 },
            write_stall: None,
            linger: None,
        }
    }

    /// Checks what has arrived. Afterwards either something is cleared, or more bytes are needed,
    /// or the state is `Refused`.
    fn clear(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Head { scanned } => match scan(&self.buffer[self.start..self.end], scanned) {
                Ok(None) if self.end - self.start == HEAD_MAX => self.refuse(Refusal::HeadTooLarge),
                Ok(None) => {}
                Ok(Some((length, framing))) => {
                    self.cleared = self.start + length;
                    self.state = match framing {
                        BodyFraming::Length(0) => State::Head { scanned: 0 },
                        BodyFraming::Length(left) => State::Body { left },
                        BodyFraming::Chunked => State::Chunked(Chunks::new()),
                    };
                }
                Err(refusal) => self.refuse(refusal),
            },
            State::Body { left } => {
                let here = self.end - self.cleared;
                let here = here.min(usize::try_from(*left).unwrap_or(usize::MAX));
                self.cleared += here;
                *left -= here as u64;
                if *left == 0 {
                    self.state = State::Head { scanned: 0 };
                }
            }
            State::Chunked(chunks) => {
                let (walked, complete) = chunks
                    .walk(&self.buffer[self.cleared..self.end])
                    .map_err(|malformed| io::Error::new(io::ErrorKind::InvalidData, malformed))?;
                self.cleared += walked;
                if chunks.is_too_large() && self.linger.is_none() {
                    self.linger = Some(Linger::new());
                }
                if complete {
                    self.state = State::Head { scanned: 0 };
                }
            }
            State::Refused { .. } => {}
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) {
        let code = refusal.code();
        self.state = State::Refused {
            head: format!(
                "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{REFUSAL_FIELD}: \
                 {code}\r\n\r\n"
            )
            .into_bytes(),
            given: 0,
        };
        self.linger = Some(Linger::new());
    }

    /// Hands on as much as is cleared and fits.
    fn hand_on(&mut self, out: &mut ReadBuf<'_>) {
        let count = (self.cleared - self.start).min(out.remaining());
        out.put_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        if self.start == self.end {
            self.buffer[..self.end].zeroize();
            (self.start, self.cleared, self.end) = (0, 0, 0);
        }
    }

    /// Moves what is unchecked to the front. Nothing cleared is left when this is called.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            (self.start, self.cleared) = (0, 0);
        }
    }

    fn stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_stall = None;
            return written;
        }
        let stall = self
            .write_stall
            .get_or_insert_with(|| Box::pin(sleep(WRITE_STALL_MAX)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Looks for the end of the head in `bytes`, from where the last look ended, and checks the head
/// once it is there. A bare line feed is refused at once: it may be the end to somebody else.
pub(crate) fn scan(
    bytes: &[u8],
    scanned: &mut usize,
) -> Result<Option<(usize, BodyFraming)>, Refusal> {
    while let Some(at) = bytes[*scanned..].iter().position(|byte| *byte == b'\n') {
        let line_feed = *scanned + at;
        let before = &bytes[..line_feed];
        if !before.ends_with(b"\r") {
            return Err(Refusal::BareLineFeed);
        }
        *scanned = line_feed + 1;
        if before == b"\r" {
            return Err(Refusal::RequestLine);
        }
        if before.ends_with(b"\r\n\r") {
            return head::check(&bytes[..*scanned]).map(|framing| Some((*scanned, framing)));
        }
    }
    *scanned = bytes.len();
    Ok(None)
}

impl Linger {
    fn new() -> Self {
        Self {
            until: Box::pin(sleep(LINGER_TIME)),
            bytes_left: LINGER_BYTES,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FramingFilter<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.start < this.cleared {
                // Never beyond one message at a time, so that a refusal keeps its place.
                this.hand_on(out);
                return Poll::Ready(Ok(()));
            }
            this.clear()?;
            if let State::Refused { head, given } = &mut this.state {
                if *given == head.len() {
                    // Not the end of the stream: hyper would take that for the peer's leaving and
                    // drop the answer. It closes by itself, because our head told it to.
                    return Poll::Pending;
                }
                let count = (head.len() - *given).min(out.remaining());
                out.put_slice(&head[*given..*given + count]);
                *given += count;
                return Poll::Ready(Ok(()));
            }
            if this.start < this.cleared {
                continue;
            }
            this.make_room();
            let mut room = ReadBuf::new(&mut this.buffer[this.end..]);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut room))?;
            let arrived = room.filled().len();
            if arrived == 0 {
                return Poll::Ready(Ok(()));
            }
            this.end += arrived;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FramingFilter<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.stalled(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.stalled(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        let Some(linger) = &mut this.linger else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let mut discarded = ReadBuf::new(&mut this.buffer);
            if linger.until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut discarded))?;
            let count = discarded.filled().len();
            if count == 0 || count > linger.bytes_left {
                return Poll::Ready(Ok(()));
            }
            linger.bytes_left -= count;
        }
    }
}

#[cfg(test)]
mod tests;
