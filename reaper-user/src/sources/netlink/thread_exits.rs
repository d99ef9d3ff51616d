//! Merges exits of threads other than the main one before each costs a check. A process may start
//! and end tens of thousands of threads per second, and only the exit of its last one matters.

use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::watch::hint::{Hint, HintSender, WaitStatus};

/// This many such exits within [`WINDOW_NS`] are churn.
const CHURN: u32 = 64;
const WINDOW_NS: u64 = 10_000_000;
/// How long exits are collected during churn. The timer makes it two to three milliseconds. The
/// smallest receive buffer has space for 256 exits and overruns from 85,000 per second on, with the
/// pause or without.
const PAUSE: Duration = Duration::from_millis(2);

/// The recent thread exits.
#[derive(Default)]
pub(super) struct ThreadExits {
    /// The hints of the last one, if the next one may still replace it: one for each watched process
    /// with that pid.
    pending: Vec<Hint>,
    window_began_ns: u64,
    in_window: u32,
}

impl ThreadExits {
    /// Sends the hints of one exit. Of consecutive thread exits of one process, only the last one is
    /// sent.
    pub(super) fn pass_on(&mut self, exit: Vec<Hint>, hints: &HintSender) {
        let Some(first) = exit.first() else { return };
        let is_thread = matches!(first.exit, Some(WaitStatus::Worker(_)));
        let is_same = |(pending, hint): (&Hint, &Hint)| pending.process == hint.process;
        let replaces_pending = is_thread
            && self.pending.len() == exit.len()
            && self.pending.iter().zip(&exit).all(is_same);
        if !replaces_pending {
            self.send_pending(hints);
        }
        self.pending = exit;
        if is_thread {
            self.count();
        } else {
            self.send_pending(hints);
        }
    }

    /// Sends the pending hint, because nothing more has arrived. During churn, returns how long the
    /// next exits should be collected.
    pub(super) fn flush(&mut self, hints: &HintSender) -> Option<Duration> {
        let had_pending = !self.pending.is_empty();
        self.send_pending(hints);
        (had_pending && self.in_window >= CHURN).then_some(PAUSE)
    }

    fn send_pending(&mut self, hints: &HintSender) {
        for hint in self.pending.drain(..) {
            hints.send(hint);
        }
    }

    /// Counts one exit. Starts a new window if the last one is over.
    fn count(&mut self) {
        let now_ns = monotonic_ns();
        if now_ns.saturating_sub(self.window_began_ns) > WINDOW_NS {
            self.window_began_ns = now_ns;
            self.in_window = 0;
        }
        self.in_window += 1;
    }
}

#[cfg(test)]
mod tests {
    use reaper_registry::{ProcessId, Source};

    use super::*;
    use crate::watch::hint;

    fn exit(process: u64, exit: WaitStatus) -> Hint {
        Hint {
            exit: Some(exit),
            ..Hint::check(ProcessId(process), Source::Netlink)
        }
    }

    #[test]
    fn only_the_last_of_consecutive_thread_exits_is_sent() {
        let (hints, mut received) = hint::channel();
        let mut exits = ThreadExits::default();
        let sent = [
            exit(7, WaitStatus::Worker(1)),
            exit(7, WaitStatus::Worker(2)),
            exit(7, WaitStatus::MainThread(3)),
            exit(7, WaitStatus::Worker(4)),
            exit(8, WaitStatus::Worker(5)),
            exit(8, WaitStatus::Worker(6)),
        ];
        for hint in sent {
            exits.pass_on(vec![hint], &hints);
        }
        assert_eq!(exits.flush(&hints), None);
        let passed: Vec<_> = std::iter::from_fn(|| received.try_recv().ok()).collect();
        assert_eq!(passed, [sent[1], sent[2], sent[3], sent[5]]);
        assert_eq!(exits.flush(&hints), None);
        assert!(received.try_recv().is_err(), "nothing is sent twice");
    }

    #[test]
    fn exits_of_a_pid_with_two_watched_processes_are_merged_as_well() {
        let (hints, mut received) = hint::channel();
        let mut exits = ThreadExits::default();
        let of_both = |status| {
            [7, 8]
                .map(|id| exit(id, WaitStatus::Worker(status)))
                .to_vec()
        };
        for status in 0..100 {
            exits.pass_on(of_both(status), &hints);
        }
        assert_eq!(exits.in_window, 100, "an exit counts once");
        exits.flush(&hints);
        let passed: Vec<_> = std::iter::from_fn(|| received.try_recv().ok()).collect();
        assert_eq!(passed, of_both(99));
    }

    #[test]
    fn exits_are_collected_only_during_churn() {
        let (hints, _received) = hint::channel();
        let mut exits = ThreadExits {
            window_began_ns: u64::MAX,
            ..ThreadExits::default()
        };
        for _ in 1..CHURN {
            exits.pass_on(vec![exit(7, WaitStatus::Worker(0))], &hints);
            assert_eq!(exits.flush(&hints), None);
        }
        exits.pass_on(vec![exit(7, WaitStatus::Worker(0))], &hints);
        assert_eq!(exits.flush(&hints), Some(PAUSE));
    }
}
