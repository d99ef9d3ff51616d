//! Hints: what sources say. A hint means "look at this process now" and never that it is dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reaper_registry::{ProcessId, Source};
use tokio::sync::{Notify, mpsc};

use crate::watch::verdict::GroupDead;

/// Room for hints that the loop has not read yet. A full channel costs nothing but time: what did
/// not fit is made up for by a sweep.
const CAPACITY: usize = 8_192;

/// A wait status word, and for whom it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitStatus {
    /// For the whole process.
    Process(u32),
    /// For the main thread.
    MainThread(u32),
    /// For one of the others.
    Worker(u32),
}

/// One hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    pub process: ProcessId,
    pub source: Source,
    /// The wait status word that came with it.
    pub exit: Option<WaitStatus>,
    /// When the kernel says it happened, on `CLOCK_MONOTONIC`.
    pub died_at_ns: Option<u64>,
    /// The kernel's own word that a whole process is dead.
    pub group_dead: Option<GroupDead>,
}

impl Hint {
    /// The bare "look".
    pub fn check(process: ProcessId, source: Source) -> Self {
        Self {
            process,
            source,
            exit: None,
            died_at_ns: None,
            group_dead: None,
        }
    }
}

/// Where sources put their hints. Never waits.
#[derive(Clone)]
pub struct HintSender {
    hints: mpsc::Sender<Hint>,
    request_sweep: Arc<Notify>,
    overflowed: Arc<AtomicU64>,
}

/// The loop's end of it.
pub type HintReceiver = mpsc::Receiver<Hint>;

/// A new channel.
pub fn channel() -> (HintSender, HintReceiver) {
    let (hints, receiver) = mpsc::channel(CAPACITY);
    (
        HintSender {
            hints,
            request_sweep: Arc::default(),
            overflowed: Arc::default(),
        },
        receiver,
    )
}

impl HintSender {
    /// A line of its own to somebody else, whose senders ask the same sweep.
    pub(crate) fn split(&self) -> (Self, HintReceiver) {
        let (hints, receiver) = mpsc::channel(CAPACITY);
        let sender = Self {
            hints,
            ..self.clone()
        };
        (sender, receiver)
    }

    /// Passes a hint on; if there is no room, has everyone looked at instead.
    pub fn send(&self, hint: Hint) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.hints.try_send(hint) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            self.request_sweep();
        }
    }

    /// Passes a hint on when there is room: for the sweep, which has nothing better to fall back on
    /// than itself. Cancel-safe.
    pub async fn send_when_room(&self, hint: Hint) {
        if self.hints.send(hint).await.is_err() {
            log::debug!("the loop has ended; a hint of the sweep is dropped");
        }
    }

    /// Has every watched process looked at, now rather than at the next sweep: after a loss, and
    /// after each start of a source, because nobody listened until then.
    pub fn request_sweep(&self) {
        self.request_sweep.notify_one();
    }

    /// Waits until somebody asked for [`Self::request_sweep`]. Cancel-safe; for the sweep alone.
    pub async fn sweep_requested(&self) {
        self.request_sweep.notified().await;
    }

    /// Hints that found no room so far.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}
