//! Exits of threads that do not lead their group, merged before they cost a look: a process may start and
//! end tens of thousands of threads per second, and only its last one's exit matters.

use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::watch::hint::{Hint, HintSender, WaitStatus};

/// So many such exits within [`WINDOW_NS`] are churn.
const CHURN: u32 = 64;
const WINDOW_NS: u64 = 10_000_000;
/// How long exits are left to collect during churn. The timer makes it two to three milliseconds. The
/// smallest receive buffer holds 256 exits, and is overrun from 85,000 a second on, with the pause or without.
const PAUSE: Duration = Duration::from_millis(2);

/// What was seen of them lately.
#[derive(Default)]
pub(super) struct ThreadExits {
    /// The last one, if the next one may still replace it.
    pending: Option<Hint>,
    window_began_ns: u64,
    in_window: u32,
}

impl ThreadExits {
    /// Passes a hint on. Of thread exits of one process in a row, only the last one is.
    pub(super) fn pass_on(&mut self, hint: Hint, hints: &HintSender) {
        let is_thread = matches!(hint.exit, Some(WaitStatus::Worker(_)));
        if let Some(pending) = self.pending.take()
            && !(is_thread && pending.process == hint.process)
        {
            hints.send(pending);
        }
        if is_thread {
            self.count();
            self.pending = Some(hint);
        } else {
            hints.send(hint);
        }
    }

    /// Passes on what is pending: nothing more has arrived. Returns how long the next ones should be left
    /// to collect, if there are that many of them.
    pub(super) fn flush(&mut self, hints: &HintSender) -> Option<Duration> {
        let pending = self.pending.take()?;
        hints.send(pending);
        (self.in_window >= CHURN).then_some(PAUSE)
    }

    /// Counts one more, in a window of its own if the last one is over.
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
    fn of_thread_exits_in_a_row_the_last_is_passed_on_and_of_the_others_each() {
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
            exits.pass_on(hint, &hints);
        }
        assert_eq!(exits.flush(&hints), None);
        let passed: Vec<_> = std::iter::from_fn(|| received.try_recv().ok()).collect();
        assert_eq!(passed, [sent[1], sent[2], sent[3], sent[5]]);
        assert_eq!(exits.flush(&hints), None);
        assert!(received.try_recv().is_err(), "nothing is passed on twice");
    }

    #[test]
    fn only_churn_is_left_to_collect() {
        let (hints, _received) = hint::channel();
        let mut exits = ThreadExits {
            window_began_ns: u64::MAX,
            ..ThreadExits::default()
        };
        for _ in 1..CHURN {
            exits.pass_on(exit(7, WaitStatus::Worker(0)), &hints);
            assert_eq!(exits.flush(&hints), None);
        }
        exits.pass_on(exit(7, WaitStatus::Worker(0)), &hints);
        assert_eq!(exits.flush(&hints), Some(PAUSE));
    }
}
