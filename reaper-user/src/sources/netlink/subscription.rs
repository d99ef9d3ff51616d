//! One subscription to the proc connector: the socket, the acknowledgement, and the datagrams.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::filter::ExitFilter;
use super::refusal;
use crate::clock::monotonic_ns;
use crate::sources::{SourceError, opener};
use crate::sys::cn_proc::{self, Event, Request, WHAT_EXIT};
use crate::sys::netlink::ConnectorSocket;

/// How often LISTEN is sent before the lack of an acknowledgement is an error. Before 6.6 any
/// client's IGNORE lowers the count of listeners, even below zero, and then the kernel acknowledges
/// nothing until the count is positive again.
const ATTEMPTS: u32 = 4;
/// How long each attempt waits. The kernel replies from within `send`, so this is for a busy
/// machine.
const ACK_TIMEOUT: Duration = Duration::from_millis(50);
/// Messages handled before other tasks run.
const BATCH: usize = 512;
/// The size of the receive buffer. The connector's datagrams are 76 bytes long.
const DATAGRAM: usize = 4096;
/// The first kernel on which IGNORE does not affect other clients.
const GUARDED_IGNORE: procfs::KernelVersion = procfs::KernelVersion {
    major: 6,
    minor: 6,
    patch: 0,
};
/// Includes errors, because an error alone need not wake a reader.
pub(super) const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);

/// A socket's registration with the runtime.
pub(super) type Readiness = AsyncFd<Arc<ConnectorSocket>>;

/// An acknowledged subscription.
pub(super) struct Subscription {
    socket: Arc<ConnectorSocket>,
    /// `None` while messages are being collected.
    readiness: Option<Arc<Readiness>>,
    /// The size that the kernel granted.
    pub(super) receive_buffer: usize,
    pub(super) acknowledged_in: Duration,
    /// Whether the last canary arrived.
    pub(super) proven: bool,
    drops_reported: u32,
    /// Messages that did not come from the kernel, not reported yet.
    forged: AtomicU64,
}

/// How far [`Subscription::drain`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// The queue is empty.
    Empty,
    /// There may be more.
    Partly,
    /// The queue has overflowed. What it had before is still in it, and the kernel drops everything
    /// new until all of that is read.
    Overrun,
}

impl Subscription {
    /// Subscribes with this filter in force.
    pub(super) async fn open(
        filter: &impl ExitFilter,
        receive_buffer: usize,
    ) -> Result<Self, SourceError> {
        let (socket, receive_buffer) = opener::current().connector(receive_buffer)?;
        let socket = Arc::new(socket);
        // Before anything can arrive. Only acknowledgements and watched exits enter the queue while
        // we wait. Acknowledgements pass every filter.
        filter.install(&socket);
        let mut subscription = Self {
            socket,
            readiness: None,
            receive_buffer,
            acknowledged_in: Duration::ZERO,
            proven: false,
            drops_reported: 0,
            forged: AtomicU64::new(0),
        };
        subscription.listen().await?;
        Ok(subscription)
    }

    /// Installs this filter, which may have been installed on another socket meanwhile.
    pub(super) fn install(&self, filter: &impl ExitFilter) {
        filter.install(&self.socket);
    }

    /// Sends LISTEN, waits for its acknowledgement, then sends the mask. The mask cannot come
    /// first: kernels before 6.6 drop such a request, and newer ones then filter out the
    /// acknowledgement.
    async fn listen(&mut self) -> Result<(), SourceError> {
        let started_ns = monotonic_ns();
        for _ in 0..ATTEMPTS {
            let seq = getrandom::u32()
                .map_err(|error| SourceError::new(format!("getrandom: {error}"), ""))?;
            self.send(Request::Listen, seq)?;
            let ack = timeout(ACK_TIMEOUT, self.ack_of(seq)).await;
            match ack {
                Err(_elapsed) => {}
                Ok(Ok(0)) => {
                    self.acknowledged_in = Duration::from_nanos(monotonic_ns() - started_ns);
                    return self.send(Request::ListenTo(WHAT_EXIT), seq.wrapping_add(2));
                }
                Ok(Ok(error)) => return Err(refusal::error_ack(error)),
                Ok(Err(error)) => return Err(refusal::failed("recv", &error)),
            }
        }
        Err(refusal::no_ack())
    }

    fn send(&self, request: Request, seq: u32) -> Result<(), SourceError> {
        opener::current()
            .send(&self.socket, request, seq)
            .map_err(|error| refusal::send(&error))
    }

    /// Waits for the acknowledgement. Exits that arrive meanwhile are dropped: none is guaranteed
    /// yet.
    async fn ack_of(&mut self, seq: u32) -> io::Result<u32> {
        let mut received = None;
        let readiness = self.readiness()?;
        loop {
            let mut ready = readiness.ready(INTEREST).await?;
            let drained = self.drain(|event| match event {
                Event::Ack { ack, error } if ack == seq.wrapping_add(1) => received = Some(error),
                _ => {}
            })?;
            if drained == Drained::Empty {
                ready.clear_ready();
            }
            if let Some(error) = received {
                return Ok(error);
            }
        }
    }

    /// Returns the registration with the runtime, which becomes ready when there is something to
    /// drain.
    pub(super) fn readiness(&mut self) -> io::Result<Arc<Readiness>> {
        let readiness = match self.readiness.take() {
            Some(readiness) => readiness,
            None => Arc::new(self.socket.readiness(INTEREST)?),
        };
        Ok(self.readiness.insert(readiness).clone())
    }

    /// Lets messages collect. They do not wake the runtime until the next call of
    /// [`Self::readiness`], provided that its earlier results are dropped.
    pub(super) fn pause(&mut self) {
        self.readiness = None;
    }

    /// Passes on what has arrived, at most [`BATCH`] datagrams. Does not wait.
    pub(super) fn drain(&self, mut handle: impl FnMut(Event)) -> io::Result<Drained> {
        let mut buffer = [0; DATAGRAM];
        for _ in 0..BATCH {
            match self.socket.receive(&mut buffer) {
                Ok(Some(datagram)) => take(datagram, &mut handle),
                Ok(None) => {
                    self.forged.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(Drained::Empty),
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => return Ok(Drained::Overrun),
                    _ => return Err(error),
                },
            }
        }
        Ok(Drained::Partly)
    }

    /// Drains until the queue is empty, even after an overrun.
    pub(super) fn drain_all(&self, mut handle: impl FnMut(Event)) -> io::Result<()> {
        while self.drain(&mut handle)? != Drained::Empty {}
        Ok(())
    }

    /// Returns how many messages did not come from the kernel since the last call.
    pub(super) fn new_forged(&self) -> u64 {
        self.forged.swap(0, Ordering::Relaxed)
    }

    /// Returns how many messages were dropped since the last call.
    pub(super) fn new_drops(&mut self) -> io::Result<u32> {
        let drops = self.socket.drops()?;
        let new = drops.wrapping_sub(self.drops_reported);
        self.drops_reported = drops;
        Ok(new)
    }
}

/// Sends IGNORE, so that the kernel stops building messages without a listener. Only if the kernel
/// counts us (LISTEN was acknowledged and exits still arrive) and checks that too. Before 6.6 all
/// clients share the count: one IGNORE too many silences all listeners of the host, and one too few
/// costs a microsecond per fork. So on those kernels it is never sent.
impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.proven || !procfs::KernelVersion::current().is_ok_and(|v| v >= GUARDED_IGNORE) {
            return;
        }
        if let Err(error) = self.socket.send(&Request::Ignore.encode(0)) {
            log::debug!("IGNORE could not be sent to the proc connector: {error}");
        }
    }
}

fn take(datagram: &[u8], handle: &mut impl FnMut(Event)) {
    for event in cn_proc::decode(datagram) {
        match event {
            Ok(event) => handle(event),
            Err(error) => log::debug!("skipped a message of the proc connector: {error}"),
        }
    }
}
