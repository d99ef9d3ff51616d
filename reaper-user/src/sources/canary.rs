//! Canaries: threads of our own that exit, so that a source has something to tell us.
//!
//! That the connector took a subscription, or the kernel a probe, does not say that exits arrive, now
//! or later: another client's IGNORE (before 6.6), a kernel bug (6.6.13 to 6.6.17), tracing switched
//! off or a sandbox that fakes the socket would otherwise be seen by nobody.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::sys::cn_proc::Exit;

/// It needs next to nothing; the C library adds what it needs itself.
const STACK: usize = 64 * 1024;
/// What mends it when no thread can be started.
pub(super) const NO_THREAD_REMEDY: &str = "raise the limit of threads (RLIMIT_NPROC, pids.max)";

/// One thread, on its way out.
pub(super) struct Canary {
    launched_ns: u64,
    /// 0: it has not run yet.
    thread: Arc<AtomicU32>,
}

impl Canary {
    /// Starts the thread.
    pub(super) fn launch() -> io::Result<Self> {
        let launched_ns = monotonic_ns();
        let thread = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&thread);
        // Detached: its exit is all it is for.
        thread::Builder::new()
            .name("canary".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                told.store(
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

    /// Whether it has been run so far as to exit next.
    pub(super) fn ran(&self) -> bool {
        self.thread.load(Ordering::Acquire) != 0
    }

    /// If this is its exit: how long it took from the launch until now.
    pub(super) fn heard_in(&self, exit: &Exit) -> Option<Duration> {
        // It tells its number before it exits, so the number is here before the news of the exit is.
        // A unrelated process may have had the number before it, but not after the launch.
        (exit.pid == self.thread.load(Ordering::Acquire)
            && exit.tgid == std::process::id()
            && exit.timestamp_ns >= self.launched_ns)
            .then(|| Duration::from_nanos(monotonic_ns().saturating_sub(self.launched_ns)))
    }

    /// One that the machine has not run yet, and what the thread would do when it runs.
    #[cfg(all(test, feature = "ebpf"))]
    pub(super) fn not_yet_run() -> (Self, impl FnOnce()) {
        let thread = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&thread);
        let canary = Self {
            launched_ns: monotonic_ns(),
            thread,
        };
        (canary, move || told.store(1, Ordering::Release))
    }
}
