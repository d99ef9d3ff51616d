//! What this kernel and role are expected to offer, and the checks of it. The VM harness passes the
//! expectations in the environment, from the table in `xtask/src/vm/matrix.rs`. Outside a guest nothing
//! is expected and every observation passes.
//!
//! * `REAPER_EXPECT`: `feature=up` or `feature=down:REASON`, separated by commas.
//! * `REAPER_REQUIRE`: features whose absence fails a test instead of skipping it.
//! * `REAPER_ROLE`: the role that this process was put into.
#![expect(
    clippy::print_stdout,
    reason = "libtest captures it and the harness reads it"
)]
#![expect(clippy::missing_panics_doc, reason = "these are assertions")]

use std::env;
use std::fmt;

use reaperd::SourceStatus;

use crate::daemon::has_program;

/// A line that begins with this marks a test as skipped.
pub const SKIP_MARK: &str = "skipped: ";

/// A line that begins with this is a figure for `docs/kernel-figures.md`.
const MEASURED_MARK: &str = "measured: ";

/// Prints a measured figure, for the reader of this run and for the page of all kernels.
pub fn measured(name: &str, value: impl fmt::Display) {
    println!("{MEASURED_MARK}{name} = {value}");
}

/// The expected or observed state of one feature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    Up,
    /// Not available, with the reason in one word: an errno name or the like.
    Down(String),
}

impl State {
    pub fn down(reason: &str) -> Self {
        Self::Down(reason.to_owned())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => write!(f, "up"),
            Self::Down(reason) => write!(f, "down:{reason}"),
        }
    }
}

/// The role of this process, if the harness gave it one.
pub fn role() -> Option<String> {
    env::var("REAPER_ROLE").ok().filter(|role| !role.is_empty())
}

/// The expected state of `feature` here, if the table has one.
pub fn expected(feature: &str) -> Option<State> {
    parse(&env::var("REAPER_EXPECT").ok()?, feature)
}

/// Fails the test unless `feature` is in the expected state. An unexpected success fails it too, and
/// so does another reason.
pub fn check(feature: &str, seen: &State) {
    match expected(feature) {
        Some(expected) => assert_eq!(*seen, expected, "{feature}: seen (left), expected (right)"),
        None => println!("{feature}={seen}; no expectation here"),
    }
}

/// Prints why a test is skipped.
pub fn skip(reason: impl fmt::Display) {
    println!("{SKIP_MARK}{reason}");
}

/// Prints why a test is skipped, because `feature` is missing. A missing required feature fails the test.
pub fn skip_without(feature: &str, reason: impl fmt::Display) {
    assert!(
        !is_required(feature),
        "{feature} is required here: {reason}"
    );
    skip(format_args!("{feature}: {reason}"));
}

/// Whether the test runs as root and has these programs. If not, skips with the reason.
pub fn root_with(programs: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("not root");
        return false;
    }
    let missing: Vec<_> = programs.iter().filter(|name| !has_program(name)).collect();
    if !missing.is_empty() {
        skip(format_args!("not installed: {missing:?}"));
    }
    missing.is_empty()
}

/// Whether a test that needs `feature` can continue. If not, prints the skip; a missing required
/// feature fails the test.
pub fn available(feature: &str, seen: &State) -> bool {
    check(feature, seen);
    if *seen == State::Up {
        return true;
    }
    skip_without(feature, seen);
    false
}

/// Whether a test of this source can continue.
pub fn source_works(status: &SourceStatus) -> bool {
    let seen = source_state(status.works(), &status.reason);
    available(status.source.name(), &seen)
}

/// The state of a source, with its reason as the matrix names it.
pub fn source_state(works: bool, reason: &str) -> State {
    if works {
        return State::Up;
    }
    let name = [
        ("initial network", "ECONNREFUSED"),
        // A decision of ours: the kernel would permit it.
        ("pid namespace of its own", "pid-namespace"),
        ("not in the initial", "no-ack"),
        ("CAP_NET_ADMIN is missing", "EPERM"),
        ("not permitted", "EPERM"),
    ]
    .into_iter()
    .find(|(text, _)| reason.contains(text));
    State::down(name.map_or(reason, |(_, name)| name))
}

/// Whether a missing `feature` fails the test.
pub fn is_required(feature: &str) -> bool {
    env::var("REAPER_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item == feature))
}

fn parse(list: &str, feature: &str) -> Option<State> {
    let (_, state) = list
        .split(',')
        .filter_map(|item| item.split_once('='))
        .find(|(name, _)| *name == feature)?;
    Some(match state.split_once(':') {
        Some((_, reason)) => State::down(reason),
        None if state == "up" => State::Up,
        None => State::down(""),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_found_by_whole_name() {
        let list = "netlink=down:EPERM,netlink-mask=up,ebpf=down";
        assert_eq!(parse(list, "netlink"), Some(State::down("EPERM")));
        assert_eq!(parse(list, "netlink-mask"), Some(State::Up));
        assert_eq!(parse(list, "ebpf"), Some(State::down("")));
        assert_eq!(parse(list, "pidfd"), None);
    }
}
