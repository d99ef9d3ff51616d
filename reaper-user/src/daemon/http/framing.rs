//! Checks the framing of every connection before hyper reads it: bytes are passed on only after
//! their head has passed [`head::check`].
//!
//! Hyper accepts some messages that another parser would delimit differently, and it refuses others
//! with a response without a body. So each head is kept back until it is complete and checked. A
//! bad head is replaced by a small head that names the refusal. Hyper passes that to the service in
//! its turn, behind the responses to earlier requests, and the service sends the error. No client
//! can send such a head, because the filter refuses the field that marks it.
//!
//! Tokens and bodies do not pass: [`SecretQueue`] has them, and hyper reads other bytes in their
//! places. What has not been checked yet is in one buffer, and is wiped there.
//!
//! Not here: the timeout of heads (hyper's, because only hyper has the state of the response
//! before) and that of bodies (the route's).

pub(crate) mod chunks;
pub(crate) mod head;
mod pace;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use zeroize::{Zeroize as _, Zeroizing};

use self::chunks::Chunks;
use self::head::BodyFraming;
pub(crate) use self::head::{BODY_MAX, HEAD_MAX, REFUSAL_FIELD, Refusal};
use self::pace::Pace;
use super::secrets::{BodyKeeper, SecretQueue};
use crate::daemon::handover::Hold;

/// For how long, and how much of, the rest of a refused message is read and discarded. Closing with
/// unread bytes would reset the connection before the peer has read the error.
const LINGER_TIME: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 1024 * 1024;

/// A connection from which only well-framed messages can be read.
pub(crate) struct FramingFilter<S> {
    inner: S,
    /// `start..cleared` is checked and can be read, `cleared..end` is not checked yet. Only the
    /// latter may contain secrets.
    buffer: Zeroizing<Box<[u8]>>,
    start: usize,
    cleared: usize,
    end: usize,
    state: State,
    pace: Pace,
    secrets: SecretQueue,
    /// Of the request whose body is arriving.
    body: BodyKeeper,
    linger: Option<Linger>,
    hold: Hold,
}

enum State {
    /// In a head; the first `scanned` bytes of it contain no empty line.
    Head {
        scanned: usize,
    },
    Body {
        left: u64,
    },
    Chunked(Chunks),
    /// The head that replaces a refused one, and how many of its bytes hyper has read.
    Refused {
        head: Vec<u8>,
        read: usize,
    },
}

struct Linger {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl<S> FramingFilter<S> {
    pub(crate) fn new(inner: S, secrets: SecretQueue) -> Self {
        Self {
            inner,
            buffer: Zeroizing::new(vec![0; HEAD_MAX].into_boxed_slice()),
            start: 0,
            cleared: 0,
            end: 0,
            state: State::Head { scanned: 0 },
            pace: Pace::default(),
            secrets,
            body: BodyKeeper::default(),
            linger: None,
            hold: Hold::default(),
        }
    }

    /// Begins to read no message while this is set.
    pub(crate) fn held_by(mut self, hold: Hold) -> Self {
        self.hold = hold;
        self
    }

    /// Checks the bytes that have arrived. Afterwards some are cleared, or more are needed, or the
    /// state is `Refused`.
    fn clear(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Head { scanned } => {
                match end_of_head(&self.buffer[self.start..self.end], scanned) {
                    Ok(None) if self.end - self.start == HEAD_MAX => {
                        self.refuse(Refusal::HeadTooLarge);
                    }
                    Ok(None) => {}
                    Ok(Some(length)) => self.clear_head(length),
                    Err(refusal) => self.refuse(refusal),
                }
            }
            State::Body { left } => {
                let here = self.end - self.cleared;
                let here = here.min(usize::try_from(*left).unwrap_or(usize::MAX));
                self.body
                    .take(&mut self.buffer[self.cleared..self.cleared + here]);
                self.cleared += here;
                *left -= here as u64;
                if *left == 0 {
                    self.state = State::Head { scanned: 0 };
                }
            }
            State::Chunked(chunks) => {
                let (walked, complete) = chunks
                    .walk(&mut self.buffer[self.cleared..self.end], |data| {
                        self.body.take(data);
                    })
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

    /// Takes the secrets out of a complete head before it is checked, because the check copies parts
    /// of it.
    fn clear_head(&mut self, length: usize) {
        let head = &mut self.buffer[self.start..self.start + length];
        let (secrets, body) = self.secrets.take_from(head);
        let framing = match head::check(head) {
            Ok(framing) => framing,
            Err(refusal) => return self.refuse(refusal),
        };
        self.secrets.push(secrets);
        self.body = body;
        self.cleared = self.start + length;
        self.state = match framing {
            BodyFraming::Length(0) => State::Head { scanned: 0 },
            BodyFraming::Length(left) => State::Body { left },
            BodyFraming::Chunked => State::Chunked(Chunks::new()),
        };
    }

    fn refuse(&mut self, refusal: Refusal) {
        let code = refusal.code();
        // Nothing of it is read any more.
        self.buffer[..self.end].zeroize();
        (self.start, self.cleared, self.end) = (0, 0, 0);
        self.state = State::Refused {
            head: format!(
                "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{REFUSAL_FIELD}: \
                 {code}\r\n\r\n"
            )
            .into_bytes(),
            read: 0,
        };
        self.linger = Some(Linger::new());
    }

    /// Copies as many cleared bytes as fit.
    fn read_cleared(&mut self, out: &mut ReadBuf<'_>) {
        let count = (self.cleared - self.start).min(out.remaining());
        out.put_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        if self.start == self.end {
            (self.start, self.cleared, self.end) = (0, 0, 0);
        }
    }

    /// Moves the unchecked bytes to the front. Must be called without cleared bytes.
    fn compact(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            let end = self.end - self.start;
            // Else a part of what was moved would stay behind its new place.
            self.buffer[end..self.end].zeroize();
            self.end = end;
            (self.start, self.cleared) = (0, 0);
        }
    }
}

/// Searches `bytes` for the end of the head, from `scanned` on, and returns the length of the head. A
/// bare line feed is refused at once, because other parsers may take it for the end.
pub(crate) fn end_of_head(bytes: &[u8], scanned: &mut usize) -> Result<Option<usize>, Refusal> {
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
            return Ok(Some(*scanned));
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
                // At most one message at a time, so that a refusal keeps its place.
                this.read_cleared(out);
                return Poll::Ready(Ok(()));
            }
            this.clear()?;
            if let State::Refused { head, read } = &mut this.state {
                if *read == head.len() {
                    // Not the end of the stream: hyper would take that for a disconnect and drop
                    // the response. It closes the connection because of the `connection` field.
                    return Poll::Pending;
                }
                let count = (head.len() - *read).min(out.remaining());
                out.put_slice(&head[*read..*read + count]);
                *read += count;
                return Poll::Ready(Ok(()));
            }
            if this.start < this.cleared {
                continue;
            }
            this.compact();
            let is_between_messages = this.end == 0 && matches!(this.state, State::Head { .. });
            if is_between_messages && this.hold.stops_reading() {
                // Whatever ends the hold polls the connection.
                return Poll::Pending;
            }
            let mut free = ReadBuf::new(&mut this.buffer[this.end..]);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut free))?;
            let arrived = free.filled().len();
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
        this.pace.check(cx, written, |count| *count)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.pace.check(cx, written, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.pace.check(cx, flushed, |()| 0)
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
            discarded.filled_mut().zeroize();
            if count == 0 || count > linger.bytes_left {
                return Poll::Ready(Ok(()));
            }
            linger.bytes_left -= count;
        }
    }
}

#[cfg(test)]
mod tests;
