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

use log::{Log, Metadata, Record};

pub(crate) use env_filter::ParseError;
pub(crate) use stderr::Unblocked;

/// Parses a filter as `RUST_LOG` has it: a level, or levels of single targets.
pub(crate) fn parse(filter: &str) -> Result<env_filter::Filter, ParseError> {
    Ok(env_filter::Builder::new().try_parse(filter)?.build())
}

/// Starts the log in the journal, if standard error is connected to it. Otherwise returns false.
#[cfg(target_os = "linux")]
pub(crate) fn start_in_journal(filter: &env_filter::Filter) -> bool {
    let Some(journal) = journal::Journal::of_stderr() else {
        return false;
    };
    let max_level = filter.filter();
    let logger = InJournal {
        filter: filter.clone(),
        journal,
    };
    let is_first = log::set_boxed_logger(Box::new(logger)).is_ok();
    log::set_max_level(max_level);
    is_first
}

/// Other systems have no journal.
#[cfg(not(target_os = "linux"))]
pub(crate) fn start_in_journal(_filter: &env_filter::Filter) -> bool {
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
