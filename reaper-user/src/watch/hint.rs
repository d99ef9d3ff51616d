//! Hints: what sources send. A hint means "check this process now", never that it is dead.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use reaper_registry::{ProcessId, Source};
use tokio::sync::{Notify, mpsc};

use crate::watch::counters::BySource;
use crate::watch::verdict::GroupDead;

/// How many hints the channel holds. A full channel costs only time: a sweep makes up for the hints
/// that did not fit.
const CAPACITY: usize = 8_192;

/// A wait status, and what it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitStatus {
    /// Of the whole process.
    #[cfg_attr(
        not(feature = "ebpf"),
        allow(
            dead_code,
            clippy::allow_attributes,
            reason = "only the probe reports it"
        )
    )]
    Process(u32),
    /// Of the main thread.
    MainThread(u32),
    /// Of another thread.
    Worker(u32),
}

/// A request to check one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    pub process: ProcessId,
    pub source: Source,
    /// The wait status that the source received with it.
    pub exit: Option<WaitStatus>,
    /// When the exit happened, on `CLOCK_MONOTONIC`, if the kernel reports it.
    pub died_at_ns: Option<u64>,
    /// The kernel's report that every thread of the process is dead.
    pub group_dead: Option<GroupDead>,
}

impl Hint {
    /// Returns a hint without further data.
    pub(crate) fn check(process: ProcessId, source: Source) -> Self {
        Self {
            process,
            source,
            exit: None,
            died_at_ns: None,
            group_dead: None,
        }
    }
}

/// Sends hints to the loop. Never blocks.
#[derive(Clone)]
pub(crate) struct HintSender {
    hints: mpsc::Sender<Hint>,
    request_sweep: Arc<Notify>,
    overflowed: Arc<BySource<AtomicU64>>,
}

/// The receiving end, which the loop has.
pub(crate) type HintReceiver = mpsc::Receiver<Hint>;

/// Creates a channel.
pub(crate) fn channel() -> (HintSender, HintReceiver) {
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
    /// Returns a sender to another channel that requests the same sweep.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn split(&self) -> (Self, HintReceiver) {
        let (hints, receiver) = mpsc::channel(CAPACITY);
        let sender = Self {
            hints,
            ..self.clone()
        };
        (sender, receiver)
    }

    /// Sends a hint. If the channel is full, requests a sweep instead.
    pub(crate) fn send(&self, hint: Hint) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.hints.try_send(hint) {
            self.overflowed.add(hint.source, 1);
            self.request_sweep();
        }
    }

    /// Sends a hint once the channel has space. For the sweep, which has no fallback but itself.
    /// Cancel-safe.
    pub(crate) async fn send_when_free(&self, hint: Hint) {
        if self.hints.send(hint).await.is_err() {
            log::debug!("the loop has ended; a hint of the sweep is dropped");
        }
    }

    /// Requests a sweep now rather than at the next interval: after a loss, and after each start of
    /// a source, because nothing was received until then.
    pub(crate) fn request_sweep(&self) {
        self.request_sweep.notify_one();
    }

    /// Waits for a call of [`Self::request_sweep`]. Cancel-safe. Only the sweep calls it.
    pub(crate) async fn sweep_requested(&self) {
        self.request_sweep.notified().await;
    }

    /// Returns how many hints of this source did not fit so far.
    #[cfg(any(test, feature = "cli"))]
    pub(crate) fn overflowed(&self, source: Source) -> u64 {
        use std::sync::atomic::Ordering;

        self.overflowed.of(source).load(Ordering::Relaxed)
    }

    /// Returns how many hints the loop has not taken yet.
    #[cfg(feature = "cli")]
    pub(crate) fn waiting(&self) -> usize {
        self.hints.max_capacity() - self.hints.capacity()
    }
}
