//! Parsers of option values. An invalid value is a usage error.

use std::fmt;
use std::time::Duration;

use reaper_registry::Source;

use crate::daemon::descriptors::MIN_CONNECTIONS;
use crate::engine::Sources;

/// The sources to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    /// All sources that work on this machine.
    Auto,
    /// Only these sources.
    Only(Vec<Source>),
}

impl SourceChoice {
    /// Whether the sweep is the only source.
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

/// Parses `auto` or a comma-separated list of sources.
pub(super) fn sources(text: &str) -> Result<SourceChoice, String> {
    if text == "auto" {
        return Ok(SourceChoice::Auto);
    }
    let mut sources: Vec<Source> = text.split(',').map(source).collect::<Result<_, _>>()?;
    sources.sort_unstable();
    sources.dedup();
    Ok(SourceChoice::Only(sources))
}

/// Parses the name of one source.
pub(super) fn source(text: &str) -> Result<Source, String> {
    let known = [Source::Netlink, Source::Ebpf, Source::Pidfd, Source::Sweep];
    known
        .into_iter()
        .find(|source| source.name() == text.trim())
        .ok_or_else(|| format!("unknown source {text:?}; expected netlink, ebpf, pidfd or sweep"))
}

/// Parses a time span of at least 10 ms, such as `5s`, `24h` or `1m 30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < Duration::from_millis(10) {
        return Err("must be at least 10ms".to_owned());
    }
    Ok(duration)
}

/// The maximum age of a session, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(Option<Duration>);

impl From<Age> for Option<Duration> {
    fn from(age: Age) -> Self {
        age.0
    }
}

/// Parses a time span or `never`.
pub(super) fn age(text: &str) -> Result<Age, String> {
    if text == "never" {
        return Ok(Age(None));
    }
    duration(text).map(|age| Age(Some(age)))
}

/// Parses a number greater than zero.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses a number of connections, of which the daemon needs some.
pub(super) fn connections(text: &str) -> Result<usize, String> {
    match count(text)? {
        ..MIN_CONNECTIONS => Err(format!("must be at least {MIN_CONNECTIONS}")),
        count => Ok(count),
    }
}

/// Parses a time span of at least one second: whole seconds are announced.
pub(super) fn keep_alive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time < Duration::from_secs(1) => Err("must be at least 1s".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_list_is_auto_or_source_names() {
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
    fn zero_times_and_counts_are_rejected() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["0s", "5", "", "-1s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(age("24h"), Ok(Age(Some(Duration::from_hours(24)))));
        assert_eq!(age("never"), Ok(Age(None)));
        assert!(keep_alive("900ms").is_err() && keep_alive("1s").is_ok());
        assert!(connections("5").is_err() && connections("6").is_ok());
        assert!(age("0s").is_err() && age("Never").is_err());
        assert_eq!(count("7"), Ok(7));
        for wrong in ["0", "-1", "x", ""] {
            assert!(count(wrong).is_err(), "{wrong:?}");
        }
    }
}
