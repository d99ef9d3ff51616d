//! One option: its names, its help and its parser.

use super::DaemonOptions;

/// The option that has a second variable, [`RUST_LOG`].
pub(crate) const LOG: &str = "log";
/// The usual variable of programs in Rust.
const RUST_LOG: &str = "RUST_LOG";

/// What a value is in a file. In variables and flags all are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string.
    Text,
    /// A number, or a string where there are units or words.
    Number,
    /// `true` or `false`.
    Switch,
    /// An array, or a string with commas.
    List,
}

/// One option of the daemon.
pub(crate) struct OptionSpec {
    /// The flag without its dashes, and the key.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// What the help calls the value.
    pub(crate) value: &'static str,
    /// As text. Empty: it is not set.
    pub(crate) default: &'static str,
    /// The allowed values.
    pub(crate) expects: &'static str,
    pub(crate) help: &'static str,
    /// Further paragraphs; empty if there are none.
    pub(crate) details: &'static str,
    /// Whether a reload changes it. Otherwise a change needs a restart.
    pub(crate) reload: bool,
    /// Parses a value and stores it.
    pub(crate) set: fn(&mut DaemonOptions, &str) -> Result<(), String>,
}

impl OptionSpec {
    /// Returns the name of the environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("REAPERD_{}", self.name.replace('-', "_").to_uppercase())
    }

    /// Returns the names of all its variables. The first one that is set counts.
    pub(crate) fn variables(&self) -> impl Iterator<Item = String> {
        let second = (self.name == LOG).then(|| RUST_LOG.to_owned());
        std::iter::once(self.variable()).chain(second)
    }

    /// Returns an error that names the allowed values unless this is one of them.
    pub(crate) fn check(&self, text: &str) -> Result<(), String> {
        let mut scratch = DaemonOptions::on("");
        (self.set)(&mut scratch, text).map_err(|error| {
            let expects = self.expects;
            format!("{error}; expected {expects}")
        })
    }
}
