//! Canaries: threads of the daemon that exit, so that a source can prove that it delivers.
//!
//! A subscription to the connector or an attached probe does not prove that exits arrive, now or
//! later. Another client's IGNORE (before 6.6), a kernel bug (6.6.13 to 6.6.17), disabled tracing
//! or a sandbox with a fake socket would otherwise go unnoticed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::sys::cn_proc::Exit;

/// The thread needs next to none; the C library adds its own minimum.
const STACK: usize = 64 * 1024;
/// The remedy when no thread can be started.
pub(super) const NO_THREAD_REMEDY: &str = "raise the limit of threads (RLIMIT_NPROC, pids.max)";

/// One thread that exits at once.
pub(super) struct Canary {
    launched_ns: u64,
    /// Its thread id; 0 until it has run.
    thread: Arc<AtomicU32>,
}

impl Canary {
    /// Starts the thread.
    pub(super) fn launch() -> io::Result<Self> {
        let launched_ns = monotonic_ns();
        let thread = Arc::new(AtomicU32::new(0));
        let tid = Arc::clone(&thread);
        // Detached: only its exit matters.
        thread::Builder::new()
            .name("canary".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                tid.store(
                    rustix::thread::gettid()
                        .as_raw_nonzero()
                        .get()
                        .cast_unsigned(),
                    Ordering::Release,
                );
            })?;
        Ok(Self {
            launched_ns,
            thread,
        })
    }

    /// Returns whether it has run, so that its exit comes next.
    pub(super) fn ran(&self) -> bool {
        self.thread.load(Ordering::Acquire) != 0
    }

    /// Returns the time since the launch if this is its exit.
    pub(super) fn latency_of(&self, exit: &Exit) -> Option<Duration> {
        // The thread stores its id before it exits, so the id is here before its exit is reported.
        // An unrelated thread may have had the same id before the launch, but not after it.
        (exit.pid == self.thread.load(Ordering::Acquire)
            && exit.tgid == std::process::id()
            && exit.timestamp_ns >= self.launched_ns)
            .then(|| Duration::from_nanos(monotonic_ns().saturating_sub(self.launched_ns)))
    }

    /// Returns a canary that has not run yet, and what its thread does when it runs.
    #[cfg(all(test, feature = "ebpf"))]
    pub(super) fn not_yet_run() -> (Self, impl FnOnce()) {
        let thread = Arc::new(AtomicU32::new(0));
        let tid = Arc::clone(&thread);
        let canary = Self {
            launched_ns: monotonic_ns(),
            thread,
        };
        (canary, move || tid.store(1, Ordering::Release))
    }
}
