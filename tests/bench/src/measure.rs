//! Order statistics, and the kernel's figures of processor time, wake-ups and memory.

use std::fs;
use std::io;

use fastrand::Rng;
use reaper_registry::Token;
use rustix::time::{ClockId, clock_gettime};

/// A set of readings of one quantity.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readings(Vec<f64>);

impl Readings {
    pub(crate) fn push(&mut self, reading: f64) {
        self.0.push(reading);
    }

    pub(crate) fn push_ns(&mut self, nanos: u64) {
        self.0.push(float(nanos));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(50)
    }

    /// The smallest reading that `percent` of them do not exceed; NaN of none.
    pub(crate) fn quantile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.quantile(100)
    }
}

impl FromIterator<f64> for Readings {
    fn from_iter<I: IntoIterator<Item = f64>>(readings: I) -> Self {
        Self(readings.into_iter().collect())
    }
}

/// Exact up to 2^53, which no count or time here reaches.
#[expect(clippy::cast_precision_loss, reason = "the values stay below 2^53")]
pub(crate) const fn float(value: u64) -> f64 {
    value as f64
}

/// The same of a count.
#[expect(clippy::cast_precision_loss, reason = "the values stay below 2^53")]
pub(crate) const fn count(value: usize) -> f64 {
    value as f64
}

/// Processor time of this thread, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// The processor time and the wake-ups of all threads of a process so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_ns: u64,
    /// How often one of its threads was woken after a voluntary sleep.
    pub(crate) wakeups: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let mut usage = Self::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // The share of a thread that has ended since the listing is lost: canaries, microseconds.
            let Ok(status) = fs::read_to_string(task.join("status")) else {
                continue;
            };
            let schedstat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            usage.wakeups += field(&status, "voluntary_ctxt_switches:");
            usage.cpu_ns += schedstat
                .split_ascii_whitespace()
                .next()
                .and_then(|nanos| nanos.parse::<u64>().ok())
                .unwrap_or(0);
        }
        Ok(usage)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            wakeups: self.wakeups + other.wakeups,
        }
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            wakeups: self.wakeups.saturating_sub(earlier.wakeups),
        }
    }
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(field(&status, "VmRSS:") * 1024)
}

/// Processor time of children that were waited for, in nanoseconds, to 10 ms.
pub(crate) fn children_cpu_ns() -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let ticks: u64 = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').skip(13).take(2))
        .into_iter()
        .flatten()
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Ok(ticks * 10_000_000)
}

/// A value of `/proc/PID/status`.
fn field(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The bytes of the next token.
pub(crate) fn token_bytes(random: &mut Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    random.fill(&mut bytes);
    bytes
}

/// The same as the 64 hex digits of a request.
pub(crate) fn token(random: &mut Rng) -> String {
    let token = Token::from_bytes(token_bytes(random));
    token.reveal().as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_readings() {
        let readings: Readings = (1..=200).map(count).collect();
        assert!((readings.median() - 100.0).abs() < f64::EPSILON);
        assert!((readings.quantile(99) - 198.0).abs() < f64::EPSILON);
        assert!((readings.max() - 200.0).abs() < f64::EPSILON);
        assert!(Readings::default().median().is_nan());
    }

    #[test]
    fn a_field_of_status_is_found_by_its_whole_name() {
        let status =
            "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t3\nVmRSS:\t 12 kB\n";
        assert_eq!(field(status, "voluntary_ctxt_switches:"), 3);
        assert_eq!(field(status, "VmRSS:"), 12);
    }
}
