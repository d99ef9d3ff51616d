//! The page of metrics as numbers. Reads whole numbers only: counts, and the buckets of histograms.

use std::time::Duration;

use reaper_registry::BootTime;

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: u64,
}

/// The counts of the daemon at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    at: BootTime,
    samples: Vec<Sample>,
}

impl Page {
    /// Parses Prometheus's text. Skips lines that have no whole number.
    pub(super) fn parse(text: &str, at: BootTime) -> Self {
        let samples = text.lines().filter_map(sample).collect();
        Self { at, samples }
    }

    /// The sum of all samples of this name.
    pub(super) fn sum(&self, name: &str) -> u64 {
        self.of(name).map(|it| it.value).sum()
    }

    /// The sum of the samples of this name that have this label.
    pub(super) fn sum_with(&self, name: &str, label: &str, value: &str) -> u64 {
        let has = |it: &&Sample| it.label(label) == Some(value);
        self.of(name).filter(has).map(|it| it.value).sum()
    }

    /// The version of the daemon, or nothing.
    pub(super) fn version(&self) -> &str {
        let mut found = self.of("reaperd_build_info");
        found.find_map(|it| it.label("version")).unwrap_or_default()
    }

    /// What was counted per second since the earlier page, in tenths. `None` if the counter began anew
    /// meanwhile.
    pub(super) fn tenths_per_second(&self, earlier: &Self, name: &str) -> Option<u64> {
        let counted = self.sum(name).checked_sub(earlier.sum(name))?;
        let ns = self.at.as_nanos().saturating_sub(earlier.at.as_nanos());
        let tenths = (u128::from(counted) * 10_000_000_000).checked_div(ns.into())?;
        u64::try_from(tenths).ok()
    }

    /// How many durations of this histogram, with any labels, are at most this long.
    pub(super) fn within(&self, histogram: &str, limit: Duration) -> u64 {
        let bucket = format!("{histogram}_bucket");
        let is_limit = |it: &&Sample| it.label("le").and_then(duration) == Some(limit);
        self.of(&bucket).filter(is_limit).map(|it| it.value).sum()
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |it| it.name == name)
    }
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(label, _)| label == name)?;
        Some(&found.1)
    }
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (head, ""),
    };
    let labels = labels.split(',').filter_map(|label| {
        let (name, value) = label.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value.parse().ok()?,
    })
}

/// The bound of a bucket; `None`: infinity.
fn duration(seconds: &str) -> Option<Duration> {
    let duration = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
    // The bounds are whole microseconds.
    Some(Duration::from_micros(
        u64::try_from((duration + Duration::from_nanos(500)).as_micros()).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP reaperd_removals_total x
# TYPE reaperd_removals_total counter
reaperd_removals_total{cause=\"exited\",source=\"netlink\"} 30
reaperd_removals_total{cause=\"expired\",source=\"none\"} 2
reaperd_sessions 7
reaperd_sweep_age_seconds 1.25
reaperd_build_info{version=\"1.2.3\",ebpf=\"true\"} 1
reaperd_detection_seconds_bucket{le=\"0.0002\",source=\"netlink\"} 4
reaperd_detection_seconds_bucket{le=\"0.0002\",source=\"ebpf\"} 5
reaperd_detection_seconds_bucket{le=\"+Inf\",source=\"ebpf\"} 6
";

    fn page(text: &str, seconds: u64) -> Page {
        Page::parse(text, BootTime::from_nanos(seconds * 1_000_000_000))
    }

    #[test]
    fn counts_are_added_up_by_name_and_label() {
        let page = page(TEXT, 0);
        assert_eq!(page.sum("reaperd_removals_total"), 32);
        assert_eq!(
            page.sum_with("reaperd_removals_total", "source", "netlink"),
            30
        );
        assert_eq!(page.sum("reaperd_sessions"), 7);
        assert_eq!(page.sum("reaperd_sweep_age_seconds"), 0);
        assert_eq!(page.version(), "1.2.3");
        let limit = Duration::from_micros(200);
        assert_eq!(page.within("reaperd_detection_seconds", limit), 9);
    }

    #[test]
    fn a_rate_is_counted_per_second_and_unknown_after_a_restart() {
        let (first, second) = (page("a 5\n", 10), page("a 12\n", 14));
        assert_eq!(second.tenths_per_second(&first, "a"), Some(17));
        assert_eq!(first.tenths_per_second(&second, "a"), None);
        assert_eq!(first.tenths_per_second(&first, "a"), None);
    }
}
