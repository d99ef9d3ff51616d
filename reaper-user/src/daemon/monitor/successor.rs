//! Whether a worker that has ended is replaced, and after which pause.

use std::time::Duration;

use rustix::process::Signal;

use crate::clock::monotonic_ns;
use crate::daemon::carried::Carried;

/// A process that a signal ended has this status plus the signal's number, as in shells.
const KILLED: i32 = 128;
/// After so many workers in a row that ended before they served, some seconds later, the table is the suspect.
const SUSPICIOUS: u32 = 10;
/// After so many the monitor gives up.
const HOPELESS: u32 = 20;
/// The pause after the second of them. Each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// So many workers that served may end at once, and then one in each of these times. Further ones wait.
const ENDS_AT_ONCE: u64 = 20;
const NS_PER_END: u64 = 1_000_000_000;

/// How a worker has ended.
pub(super) struct End {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    /// The signals that it got from the monitor.
    pub(super) passed_on: Vec<Signal>,
}

/// The workers so far.
#[derive(Default)]
pub(super) struct History {
    /// Whether one has served.
    has_served: bool,
    restarts: u32,
    /// How many in a row have ended before they served.
    failures: u32,
    /// How many that served have ended lately: less one for each second since then.
    ends: u64,
    last_end_ns: u64,
    last_code: u8,
}

impl History {
    /// Notes the end of a worker. Returns the code with which the monitor ends, if there is to be no
    /// other one: after an orderly end, after a signal that was passed on, and if the first one refuses
    /// to start.
    pub(super) fn ended(&mut self, end: &End, was_ready: bool) -> Option<u8> {
        let signal = end.signal;
        let code = end.code.or(signal.map(|it| KILLED + it));
        self.last_code = code.map_or(u8::MAX, |it| u8::try_from(it).unwrap_or(u8::MAX));
        if let Some(signal) = signal {
            log::error!("the worker was killed by signal {signal}");
        } else if self.last_code == 0 {
            return Some(0);
        }
        let is_ending =
            |signal: &Signal| matches!(*signal, Signal::TERM | Signal::INT | Signal::QUIT);
        let was_requested = |it: &Signal| is_ending(it) || Some(it.as_raw()) == signal;
        // A worker that obeys SIGQUIT exits with the status that the signal would have given it.
        let has_obeyed = end.code == Some(KILLED + Signal::QUIT.as_raw());
        if has_obeyed || end.passed_on.iter().any(was_requested) {
            return Some(self.last_code);
        }
        self.has_served |= was_ready;
        if signal.is_none() {
            // One that refuses to start has said why.
            if !self.has_served {
                return Some(self.last_code);
            }
            log::error!("the worker exited with status {}", self.last_code);
        }
        if was_ready {
            self.failures = 0;
            self.restarts += 1;
            self.note_end(monotonic_ns());
            log::warn!("starting another worker, number {}", self.restarts + 1);
            return None;
        }
        self.not_started()
    }

    fn note_end(&mut self, now_ns: u64) {
        let passed = now_ns.saturating_sub(self.last_end_ns) / NS_PER_END;
        self.ends = self.ends.saturating_sub(passed) + 1;
        self.last_end_ns = now_ns;
    }

    /// Notes that a worker did not begin to serve. Returns the code with which the monitor gives up.
    pub(super) fn not_started(&mut self) -> Option<u8> {
        self.failures += 1;
        log::warn!("the worker did not begin to serve; trying again");
        self.restarts += 1;
        if self.failures >= HOPELESS {
            log::error!("{HOPELESS} workers in a row ended before they served; giving up");
            return Some(self.last_code.max(1));
        }
        None
    }

    /// Returns the code with which the last worker has ended.
    pub(super) fn code(&self) -> u8 {
        self.last_code
    }

    /// Returns how long to wait for the next one.
    pub(super) fn pause(&self) -> Duration {
        if self.ends > ENDS_AT_ONCE {
            return LONGEST_PAUSE;
        }
        match self.failures {
            0 | 1 => Duration::ZERO,
            failures => FIRST_PAUSE
                .saturating_mul(1 << (failures - 2).min(16))
                .min(LONGEST_PAUSE),
        }
    }

    /// Returns what the next worker gets of this. Without the table if workers fail with it.
    pub(super) fn trusted(&self, mut carried: Carried) -> Carried {
        carried.restarts = self.restarts;
        if self.failures < SUSPICIOUS || carried.table.is_none() {
            return carried;
        }
        log::error!("{SUSPICIOUS} workers in a row failed with the sessions of the former one");
        Carried {
            table: None,
            secrets: None,
            ..carried
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> End {
        End {
            code: Some(code),
            signal: None,
            passed_on: Vec::new(),
        }
    }

    fn killed(signal: i32, passed_on: &[Signal]) -> End {
        End {
            code: None,
            signal: Some(signal),
            passed_on: passed_on.to_vec(),
        }
    }

    #[test]
    fn a_worker_is_replaced_unless_its_end_was_orderly_or_requested() {
        let ended = |end: &End, was_ready| History::default().ended(end, was_ready);
        assert_eq!(ended(&exited(0), true), Some(0));
        assert_eq!(ended(&exited(1), false), Some(1), "it refuses to start");
        assert_eq!(ended(&exited(101), true), None);
        assert_eq!(ended(&killed(9, &[]), true), None);
        assert_eq!(ended(&killed(9, &[]), false), None);
        assert_eq!(ended(&killed(1, &[Signal::HUP]), true), Some(129));
        assert_eq!(ended(&killed(9, &[Signal::HUP]), true), None);
        assert_eq!(ended(&killed(9, &[Signal::TERM]), true), Some(137));
        let at_once = End {
            passed_on: vec![Signal::QUIT],
            ..exited(131)
        };
        assert_eq!(ended(&at_once, true), Some(131));
        assert_eq!(
            ended(&exited(131), true),
            Some(131),
            "it got SIGQUIT itself"
        );
    }

    #[test]
    fn workers_that_serve_and_end_again_and_again_are_replaced_more_slowly() {
        let mut history = History::default();
        for _ in 0..ENDS_AT_ONCE {
            history.note_end(NS_PER_END);
            assert_eq!(history.pause(), Duration::ZERO);
        }
        history.note_end(NS_PER_END);
        assert_eq!(history.pause(), LONGEST_PAUSE);
        history.note_end(3 * NS_PER_END);
        assert_eq!(history.pause(), Duration::ZERO);
    }

    #[test]
    fn failures_in_a_row_lead_to_pauses_to_an_empty_start_and_to_the_end() {
        let mut history = History::default();
        assert_eq!(history.ended(&killed(9, &[]), true), None);
        assert_eq!(history.pause(), Duration::ZERO, "at once");
        let file = || std::fs::File::open("/dev/null").unwrap().into();
        let carried = || Carried {
            table: Some(file()),
            lock: Some(file()),
            ..Carried::default()
        };
        for failures in 1..HOPELESS {
            assert_eq!(history.ended(&exited(1), false), None);
            let doubled = FIRST_PAUSE * 2_u32.pow(failures) / 4;
            let expected = if failures == 1 {
                Duration::ZERO
            } else {
                doubled
            };
            assert_eq!(history.pause(), expected.min(LONGEST_PAUSE));
            let trusted = history.trusted(carried());
            assert_eq!(trusted.table.is_some(), failures < SUSPICIOUS);
            assert!(trusted.lock.is_some());
        }
        assert_eq!(history.ended(&exited(1), false), Some(1));
        assert_eq!(history.restarts, 1 + HOPELESS);
    }
}
