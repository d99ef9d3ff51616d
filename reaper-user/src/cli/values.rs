//! Values of flags: read once, here, so that an unusable one is a usage error.

use std::fmt;
use std::time::Duration;

use reaper_registry::Source;

use crate::engine::Sources;

/// Which sources may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    /// Every one that works here.
    Auto,
    /// These.
    Only(Vec<Source>),
}

impl SourceChoice {
    /// Whether the sweep alone is asked for.
    pub fn is_sweep_alone(&self) -> bool {
        matches!(self, Self::Only(sources) if sources.as_slice() == [Source::Sweep])
    }
}

impl fmt::Display for SourceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(sources) => {
                let names: Vec<_> = sources.iter().map(|source| source.name()).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl From<SourceChoice> for Sources {
    fn from(choice: SourceChoice) -> Self {
        match choice {
            SourceChoice::Auto => Self::default(),
            SourceChoice::Only(sources) => Self::only(sources),
        }
    }
}

/// Reads `auto` or a list of sources.
pub(super) fn sources(text: &str) -> Result<SourceChoice, String> {
    if text == "auto" {
        return Ok(SourceChoice::Auto);
    }
    let mut sources: Vec<Source> = text.split(',').map(source).collect::<Result<_, _>>()?;
    sources.sort_unstable();
    sources.dedup();
    Ok(SourceChoice::Only(sources))
}

/// Reads the name of one source.
pub(super) fn source(text: &str) -> Result<Source, String> {
    let known = [Source::Netlink, Source::Ebpf, Source::Pidfd, Source::Sweep];
    known
        .into_iter()
        .find(|source| source.name() == text.trim())
        .ok_or_else(|| format!("{text:?} is none of netlink, ebpf, pidfd, sweep"))
}

/// Reads a time such as `5s`, `24h` or `1m 30s`; nothing that is over at once.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < Duration::from_millis(10) {
        return Err("the shortest is 10ms".to_owned());
    }
    Ok(duration)
}

/// The age at which a session ends, if it ends by its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(Option<Duration>);

impl From<Age> for Option<Duration> {
    fn from(age: Age) -> Self {
        age.0
    }
}

/// Reads a time, or `never`.
pub(super) fn age(text: &str) -> Result<Age, String> {
    if text == "never" {
        return Ok(Age(None));
    }
    duration(text).map(|age| Age(Some(age)))
}

/// Reads a number of at least one.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_lists_are_auto_or_names() {
        assert_eq!(sources("auto"), Ok(SourceChoice::Auto));
        let only = sources("sweep,netlink,sweep").unwrap();
        assert_eq!(
            only,
            SourceChoice::Only(vec![Source::Netlink, Source::Sweep])
        );
        assert_eq!(only.to_string(), "netlink,sweep");
        assert!(sources("sweep").unwrap().is_sweep_alone());
        for wrong in ["", "netlnik", "netlink,", "auto,sweep", "register"] {
            assert!(sources(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn times_and_counts_of_nothing_are_refused() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["0s", "5", "", "-1s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(age("24h"), Ok(Age(Some(Duration::from_hours(24)))));
        assert_eq!(age("never"), Ok(Age(None)));
        assert!(age("0s").is_err() && age("Never").is_err());
        assert_eq!(count("7"), Ok(7));
        for wrong in ["0", "-1", "x", ""] {
            assert!(count(wrong).is_err(), "{wrong:?}");
        }
    }
}
