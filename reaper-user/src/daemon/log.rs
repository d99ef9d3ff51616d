//! The log of the daemon: to the journal if standard error leads there, else one line a message on standard
//! error. No message waits for its reader: what is not taken at once is lost, and counted.
//!
//! Levels are described in `docs/logging.md`. Both outputs are opened before the sandbox, and monitor and
//! worker share them.

#[cfg(target_os = "linux")]
mod journal;
pub(crate) mod refusals;
pub(crate) mod sessions;
mod stderr;

use std::str::FromStr;

use log::LevelFilter;
#[cfg(target_os = "linux")]
use log::{Log, Metadata, Record};

pub(crate) use env_filter::ParseError;
pub(crate) use stderr::Unblocked;

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// One level for all targets.
    Level(LevelFilter),
    /// Levels of single targets, in the form of `RUST_LOG`.
    Targets(String),
}

impl FromStr for Filter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Ok(level) = text.parse() {
            return Ok(Self::Level(level));
        }
        env_filter::Builder::new().try_parse(text)?;
        Ok(Self::Targets(text.to_owned()))
    }
}

impl Filter {
    /// Returns the filter of a logger. For a level it is open: the level alone decides, which can change.
    pub(crate) fn directives(&self) -> &str {
        match self {
            Self::Level(_) => "trace",
            Self::Targets(targets) => targets,
        }
    }

    /// Returns whether a running logger with this filter can have the other one.
    pub(crate) const fn can_become(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Level(_), Self::Level(_)))
    }

    /// Sets the level of the logger that runs.
    pub(crate) fn set_level(&self) {
        if let Self::Level(level) = self {
            log::set_max_level(*level);
        }
    }
}

/// Starts the log in the journal, if standard error is connected to it. Otherwise returns false.
#[cfg(target_os = "linux")]
pub(crate) fn start_in_journal(filter: &Filter) -> bool {
    let Some(journal) = journal::Journal::of_stderr() else {
        return false;
    };
    let targets = env_filter::Builder::new()
        .parse(filter.directives())
        .build();
    log::set_max_level(targets.filter());
    filter.set_level();
    let logger = InJournal {
        filter: targets,
        journal,
    };
    log::set_boxed_logger(Box::new(logger)).is_ok()
}

/// Other systems have no journal.
#[cfg(not(target_os = "linux"))]
pub(crate) fn start_in_journal(_filter: &Filter) -> bool {
    false
}

#[cfg(target_os = "linux")]
struct InJournal {
    filter: env_filter::Filter,
    journal: journal::Journal,
}

#[cfg(target_os = "linux")]
impl Log for InJournal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.filter.matches(record) {
            self.journal.write(record);
        }
    }

    fn flush(&self) {}
}

/// The sentence about lost messages.
fn lost(count: u64) -> String {
    format!("{count} messages of the log are lost, because they were not taken in time")
}
