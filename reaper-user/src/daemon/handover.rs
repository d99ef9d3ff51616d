//! The hand-over of a running daemon to its successor (`reaperd daemon --replace`): the listening
//! socket, the lock, the connections, and the memory with the sessions. No client notices it.
//!
//! The order is that of a change that can be undone until its last step:
//!
//! 1. The successor asks for it as a client (`POST /v1/daemon/replace`). From the response on, the two
//!    exchange the messages of [`message`] over that connection.
//! 2. The former daemon accepts nothing and begins no request; both wait in the kernel. It finishes
//!    the requests in progress, for a limited time, and sends each connection that is between two
//!    requests ([`hold`]), then the rest. From then on it changes nothing.
//! 3. The successor becomes monitor and worker, restores the sessions without writing, opens its
//!    sources and reports that it is ready.
//! 4. The former daemon lets it go, and ends. The socket file, the lock and the memory stay. Its monitor
//!    sends this last message, so that a worker that is killed right before or after it leaves one of the
//!    two daemons, and never none.
//!
//! If the successor ends, fails or takes too long before that, the former daemon goes on with
//! everything, because it has closed nothing.
//!
//! [`give`] is the side of the former daemon, [`take`] that of the successor.

pub(crate) mod give;
mod hold;
pub(crate) mod message;
pub(crate) mod take;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

pub(crate) use hold::Hold;
pub(crate) use message::StreamPosition;

/// How long a hand-over may take in all. Clients wait for as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// How many sockets are duplicated at the same time to be sent. No more descriptors are needed than what
/// is reserved for connections that are being accepted, which none is meanwhile.
const AT_ONCE: usize = 3;

/// What all connections do.
#[derive(Clone)]
pub(crate) enum Mode {
    Serving,
    /// They begin no message, and are given away.
    Held(Giving),
    /// The daemon ends.
    Stopping,
    /// The successor serves.
    Gone,
}

/// Collects the connections of one hand-over.
#[derive(Clone)]
pub(crate) struct Giving {
    turns: Arc<Semaphore>,
    parked: mpsc::UnboundedSender<Parked>,
}

/// A connection that waits for the outcome of the hand-over.
pub(crate) struct Parked {
    /// `None` for lack of descriptors.
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) connection: message::Connection,
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

impl Giving {
    fn new() -> (Self, mpsc::UnboundedReceiver<Parked>) {
        let (parked, receiver) = mpsc::unbounded_channel();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        (Self { turns, parked }, receiver)
    }

    /// Waits until another socket may be duplicated. Cancel-safe.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }

    /// Adds a connection. After the end of the hand-over it is dropped instead.
    pub(crate) fn add(&self, parked: Parked) {
        self.parked.send(parked).unwrap_or_default();
    }
}

/// Where successors ask for a hand-over, one at a time.
pub(crate) struct Handovers {
    /// How many came before this process.
    pub(crate) replaced: u32,
    in_progress: Arc<AtomicBool>,
    requests: mpsc::UnboundedSender<Request>,
}

/// The right to the one hand-over at a time; given back on drop.
pub(crate) struct Ticket {
    successor: Option<i32>,
    in_progress: Arc<AtomicBool>,
    requests: mpsc::UnboundedSender<Request>,
}

/// A successor that waits on this socket.
pub(crate) struct Request {
    socket: OwnedFd,
    ticket: Ticket,
}

impl Handovers {
    pub(crate) fn new(replaced: u32) -> (Self, mpsc::UnboundedReceiver<Request>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let handovers = Self {
            replaced,
            in_progress: Arc::default(),
            requests,
        };
        (handovers, receiver)
    }

    /// Returns `None` if there is one already.
    pub(crate) fn begin(&self, successor: Option<i32>) -> Option<Ticket> {
        (!self.in_progress.swap(true, Ordering::AcqRel)).then(|| Ticket {
            successor,
            in_progress: self.in_progress.clone(),
            requests: self.requests.clone(),
        })
    }
}

impl Ticket {
    /// Starts the hand-over on this connection, if its socket could be duplicated.
    pub(crate) fn start(self, socket: Option<OwnedFd>) {
        let requests = self.requests.clone();
        if let Some(socket) = socket {
            // A daemon that is stopping receives none.
            let request = Request {
                socket,
                ticket: self,
            };
            requests.send(request).unwrap_or_default();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.in_progress.store(false, Ordering::Release);
    }
}

/// Lets the monitor send the last message to the successor on this socket. `None`: there is no monitor.
fn let_go_by_monitor(successor: BorrowedFd<'_>) -> Option<io::Result<()>> {
    #[cfg(target_os = "linux")]
    return crate::daemon::monitor::let_go(successor);
    #[cfg(not(target_os = "linux"))]
    {
        let _only_linux_has_one = successor;
        None
    }
}

/// Tells the monitor, if there is one, that no other daemon has what outlives its worker.
fn retain() {
    #[cfg(target_os = "linux")]
    crate::daemon::monitor::retain();
}
