//! What the sources and the loop have done, as counters that only increase. Adding takes no lock and
//! allocates nothing; the readers sum up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reaper_registry::Source;

/// The upper bounds of the buckets of a [`Durations`], in microseconds. What is longer is in one more.
pub(crate) const BOUNDS_US: [u64; 17] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000,
];

/// What can lead to a check of a process.
pub(crate) const CHECKS_BY: [Source; 5] = [
    Source::Netlink,
    Source::Ebpf,
    Source::Pidfd,
    Source::Sweep,
    Source::Register,
];

/// What the engine counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Restarts of the loop after a panic.
    pub(crate) loop_restarts: AtomicU64,
    /// From the exit of a process to its verdict, where the time of the exit is known.
    pub(crate) detection: BySource<Durations>,
    /// Checks without a result, by the source that led to them. The process is kept.
    pub(crate) unknown: BySource<AtomicU64>,
    pub(crate) sweeps: Durations,
}

/// One value for each of [`CHECKS_BY`].
#[derive(Debug, Default)]
pub(crate) struct BySource<T>([T; CHECKS_BY.len()]);

impl<T> BySource<T> {
    pub(crate) fn of(&self, source: Source) -> &T {
        match source {
            Source::Netlink => &self.0[0],
            Source::Ebpf => &self.0[1],
            Source::Pidfd => &self.0[2],
            Source::Sweep => &self.0[3],
            // A registration. The enum may grow.
            _ => &self.0[4],
        }
    }
}

impl BySource<AtomicU64> {
    pub(crate) fn add(&self, source: Source, count: u64) {
        self.of(source).fetch_add(count, Ordering::Relaxed);
    }
}

/// How many durations there were, by length, and their sum.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    /// By the bounds, and one for the longer ones.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Durations {
    pub(crate) fn add(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| bound * 1_000 < nanos);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns how many there are in each bucket, and their sum.
    #[cfg_attr(
        not(feature = "cli"),
        expect(dead_code, reason = "the daemon shows them")
    )]
    pub(crate) fn read(&self) -> ([u64; BOUNDS_US.len() + 1], Duration) {
        let buckets = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        let sum = self.sum_ns.load(Ordering::Relaxed);
        (buckets, Duration::from_nanos(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_counter() {
        let counters = BySource::<AtomicU64>::default();
        for source in CHECKS_BY {
            assert_eq!(counters.of(source).fetch_add(1, Ordering::Relaxed), 0);
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let durations = Durations::default();
        for nanos in [0, 50_000, 50_001, 100_000, 10_000_000_000, 10_000_000_001] {
            durations.add(Duration::from_nanos(nanos));
        }
        let (buckets, sum) = durations.read();
        assert_eq!(buckets[..3], [2, 2, 0]);
        assert_eq!(buckets[16..], [1, 1]);
        assert_eq!(sum, Duration::from_nanos(20_000_200_002));
    }
}
