//! Delays of requests and of events, and their distribution.

use std::time::Duration;

use reaperd::testkit::clock::monotonic_ns;

/// Delays in nanoseconds.
#[derive(Default)]
pub(crate) struct Delays(Vec<u64>);

impl Delays {
    /// Measures one call.
    pub(crate) fn of<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let began = monotonic_ns();
        let result = call();
        self.push(monotonic_ns() - began);
        result
    }

    pub(crate) fn push(&mut self, nanos: u64) {
        self.0.push(nanos);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The delay that this share of the measured ones does not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        Duration::from_nanos(sorted.get(at).copied().unwrap_or(0))
    }
}
