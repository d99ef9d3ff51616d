//! What `run` and `register` say about a session, and the rules for it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::print_message;
use super::selection::label;
use super::values;
use crate::text::{self, GROUP_MAX, GROUPS_MAX, LABELS_MAX, NAME_MAX};

#[derive(Debug, clap::Args)]
pub(super) struct Details {
    /// Mesh of the session
    #[arg(long, default_value = "default")]
    pub(super) mesh: String,
    /// Role of the session
    #[arg(long)]
    pub(super) role: Option<String>,
    /// Add the session to a group; may be given more than once
    #[arg(long, value_name = "GROUP")]
    pub(super) group: Vec<String>,
    /// Give the session a label, by which `ls` and `watch` select it; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(super) label: Vec<(String, String)>,
    /// How long the session lasts: a time such as 30s or 1h, or `process` for as long as its process lives
    #[arg(long, value_name = "TIME", default_value = "process", value_parser = ttl)]
    pub(super) ttl: Lifetime,
}

/// The time of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    Process,
    Seconds(u32),
}

impl Lifetime {
    /// As the daemon takes it.
    pub(super) fn as_json(self) -> Value {
        match self {
            Self::Process => json!("process"),
            Self::Seconds(seconds) => json!(seconds),
        }
    }
}

/// Parses a time span of whole seconds, or `process`.
pub(super) fn ttl(text: &str) -> Result<Lifetime, String> {
    if text == "process" {
        return Ok(Lifetime::Process);
    }
    let span = values::duration(text)
        .map_err(|error| format!("{error}; expected a time such as 30s or 1h, or process"))?;
    if span.subsec_nanos() > 0 {
        return Err("must be whole seconds".to_owned());
    }
    let seconds = u32::try_from(span.as_secs());
    seconds
        .map(Lifetime::Seconds)
        .map_err(|_too_large| "must be less than 136 years".to_owned())
}

impl Details {
    /// Rejects invalid values. `texts` are further options with a name.
    pub(super) fn check(
        &self,
        command: &str,
        texts: &[(&'static str, Option<&str>)],
    ) -> Result<(), Failure> {
        let mesh = ("--mesh", Some(&*self.mesh));
        let required = texts.iter().copied().chain([mesh]);
        for (flag, text) in required.clone() {
            if text.is_some_and(|text| text.trim().is_empty()) {
                return Err(Failure {
                    remedy: format!("give {flag} a text, or leave it out for the default"),
                    ..invalid(command, flag, "must not be empty")
                });
            }
        }
        let groups = self
            .group
            .iter()
            .map(|group| ("--group", &**group, GROUP_MAX));
        let names = required
            .chain([("--role", self.role.as_deref())])
            .filter_map(|(flag, text)| Some((flag, text?, NAME_MAX)));
        for (flag, text, max) in names.chain(groups) {
            text::check(text, max).map_err(|error| invalid(command, flag, &error.to_string()))?;
        }
        if self.group.len() > GROUPS_MAX {
            let rule = format!("must not be given more than {GROUPS_MAX} times");
            return Err(invalid(command, "--group", &rule));
        }
        if self.label.len() > LABELS_MAX {
            let rule = format!("must not be given more than {LABELS_MAX} times");
            return Err(invalid(command, "--label", &rule));
        }
        let keys: BTreeSet<_> = self.label.iter().map(|(key, _)| key).collect();
        if keys.len() < self.label.len() {
            return Err(invalid(command, "--label", "must not have a key twice"));
        }
        Ok(())
    }

    /// As the daemon takes them; null if there are none.
    pub(super) fn labels(&self) -> Value {
        if self.label.is_empty() {
            return Value::Null;
        }
        let pairs = self.label.iter();
        let pairs = pairs.map(|(key, value)| (key.clone(), value.as_str().into()));
        Value::Object(pairs.collect())
    }
}

/// Prints what the daemon did not take of a registration, if anything. Its response names that.
pub(super) fn warn_of(ignored: &[String]) {
    if !ignored.is_empty() {
        let names = ignored.join(", ");
        print_message(&format!(
            "reaperd: the daemon does not know {names}, which has no effect; a newer one may"
        ));
    }
}

fn invalid(command: &str, flag: &str, rule: &str) -> Failure {
    Failure {
        code: ExitCode::Usage,
        message: format!("{flag} {rule}"),
        remedy: format!("reaperd {command} --help"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_that_of_the_process_or_whole_seconds() {
        assert_eq!(ttl("process"), Ok(Lifetime::Process));
        assert_eq!(ttl("1h 30s"), Ok(Lifetime::Seconds(3_630)));
        assert_eq!(Lifetime::Seconds(3_630).as_json(), 3_630);
        for wrong in ["", "5", "never", "1500ms", "500ms", "0s", "200years"] {
            assert!(ttl(wrong).is_err(), "{wrong:?}");
        }
    }
}
