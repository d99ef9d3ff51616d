//! What this kernel and role are expected to offer, as the VM harness says it through the
//! environment, and the checks that hold a test to it. The table itself is in
//! `xtask/src/vm/matrix.rs`; outside a guest nothing is expected and every observation passes.
//!
//! * `REAPER_EXPECT`: `feature=up` or `feature=down:REASON`, separated by commas.
//! * `REAPER_REQUIRE`: features whose absence fails a test that would else be skipped.
//! * `REAPER_ROLE`: the role that this process was put into.
#![expect(
    clippy::print_stdout,
    reason = "libtest captures it and the harness reads it"
)]
#![expect(clippy::missing_panics_doc, reason = "these are assertions")]

use std::env;
use std::fmt;

use reaperd::SourceStatus;

/// What libtest's output must hold for a test to count as skipped.
pub const SKIP_MARK: &str = "skipped: ";

/// What a line of a test's output starts with that is a figure for `docs/kernel-figures.md`.
pub const MEASURED_MARK: &str = "measured: ";

/// Tells the reader of this run, and the page of all kernels, what was measured.
pub fn measured(name: &str, value: impl fmt::Display) {
    println!("{MEASURED_MARK}{name} = {value}");
}

/// The expected or observed state of one feature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    Up,
    /// Not available, and the one word that says why: an errno name or the like.
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

/// What is expected of `feature` here; `None` where nobody wrote it down.
pub fn expected(feature: &str) -> Option<State> {
    parse(&env::var("REAPER_EXPECT").ok()?, feature)
}

/// Fails the test unless `feature` is in the expected state. An unexpected success fails too, and
/// so does another reason than the expected one.
pub fn check(feature: &str, seen: &State) {
    match expected(feature) {
        Some(expected) => assert_eq!(*seen, expected, "{feature}: seen (left), expected (right)"),
        None => println!("{feature}={seen}; nothing is expected here"),
    }
}

/// Says why a test says nothing here.
pub fn skip(reason: impl fmt::Display) {
    println!("{SKIP_MARK}{reason}");
}

/// As above, for want of `feature`: where that is required, the test fails.
pub fn skip_without(feature: &str, reason: impl fmt::Display) {
    assert!(
        !is_required(feature),
        "{feature} is required here: {reason}"
    );
    skip(format_args!("{feature}: {reason}"));
}

/// Whether a test that needs `feature` may go on. Where it may not, the skip says so, unless
/// the feature is required here: then it fails.
pub fn available(feature: &str, seen: &State) -> bool {
    check(feature, seen);
    if *seen == State::Up {
        return true;
    }
    skip_without(feature, seen);
    false
}

/// Whether a test of this source, which has said how it is, may go on.
pub fn source_works(status: &SourceStatus) -> bool {
    let seen = source_state(status.works(), &status.reason);
    available(status.source.name(), &seen)
}

/// A source of the daemon's or the library's in the words of the matrix, by what it says of itself.
pub fn source_state(works: bool, reason: &str) -> State {
    if works {
        return State::Up;
    }
    let word = [
        ("initial network", "ECONNREFUSED"),
        // By design and not by the kernel's word, which would let us in.
        ("pid namespace of its own", "pid-namespace"),
        ("not in the initial", "no-ack"),
        ("CAP_NET_ADMIN is missing", "EPERM"),
        ("not permitted", "EPERM"),
    ]
    .into_iter()
    .find(|(text, _)| reason.contains(text));
    State::down(word.map_or(reason, |(_, word)| word))
}

/// Whether a test that needs `feature` may not do without it here.
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
