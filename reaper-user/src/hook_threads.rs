//! Threads that run the hooks of an embedder. A hook that blocks delays neither the loop that removes dead
//! sessions nor the hooks of other sessions.
//!
//! The registry keeps the order of hooks within a session, whichever threads run them. A thread is started
//! when all others are busy, up to a limit. Beyond the limit, hooks wait.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use reaper_registry::HookRun;

/// The maximum number of threads. If as many hooks block, further hooks wait.
const MAX_THREADS: usize = 32;
/// How long an idle thread waits for work before it ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
pub(crate) struct HookThreads(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<HookRun>,
    idle: usize,
    threads: usize,
}

impl HookThreads {
    /// Queues the hooks for one of the threads. Does not block.
    pub(crate) fn run(&self, hooks: HookRun) {
        let mut queue = self.0.queue();
        queue.waiting.push_back(hooks);
        if queue.idle >= queue.waiting.len() || queue.threads == MAX_THREADS {
            self.0.work.notify_one();
            return;
        }
        queue.threads += 1;
        drop(queue);
        let shared = self.0.clone();
        let started = thread::Builder::new()
            .name("hooks".into())
            .spawn(move || shared.run_hooks());
        if let Err(error) = started {
            log::warn!("cannot start a thread for hooks: {error}");
            self.0.queue().threads -= 1;
            self.0.work.notify_one();
        }
    }
}

impl Shared {
    fn run_hooks(&self) {
        while let Some(hooks) = self.next() {
            hooks();
        }
    }

    /// Waits for the next run. Returns `None` after [`IDLE_TIMEOUT`]; the thread must then end.
    fn next(&self) -> Option<HookRun> {
        let mut queue = self.queue();
        queue.idle += 1;
        let (mut queue, _timed_out) = self
            .work
            .wait_timeout_while(queue, IDLE_TIMEOUT, |queue| queue.waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        queue.idle -= 1;
        let next = queue.waiting.pop_front();
        if next.is_none() {
            queue.threads -= 1;
        }
        next
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn a_blocking_hook_does_not_delay_other_hooks() {
        let threads = HookThreads::default();
        let (done, seen) = mpsc::channel();
        let (_unblock, blocked) = mpsc::channel::<()>();
        threads.run(Box::new(move || assert!(blocked.recv().is_err())));
        for number in 0..100 {
            let done = done.clone();
            threads.run(Box::new(move || done.send(number).unwrap()));
        }
        let mut numbers: Vec<i32> = (0..100)
            .map(|_| seen.recv_timeout(TIMEOUT).unwrap())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        assert!(threads.0.queue().threads <= MAX_THREADS);
    }
}
