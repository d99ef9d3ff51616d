//! Refused requests in the log: the first of each kind and user at once, further ones as a number. A client
//! in a loop could fill the log otherwise.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::daemon::api::NO_USER;

/// The time between two lines about one kind of refusal and one user.
pub(crate) const SUMMARY_INTERVAL: Duration = Duration::from_mins(1);
/// Kinds and users that are counted separately. The others are counted as one.
const MAX_COUNTED: usize = 256;

static REFUSALS: Mutex<Refusals> = Mutex::new(Refusals(BTreeMap::new()));

/// What has been refused since the last summary.
struct Refusals(BTreeMap<Key, u64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Of { uid: u32, code: &'static str },
    Others,
}

impl Refusals {
    /// Counts one more. Returns whether it is the first of its key.
    fn count(&mut self, uid: u32, code: &'static str) -> Option<Key> {
        let key = Key::Of { uid, code };
        let is_counted = self.0.contains_key(&key) || self.0.len() < MAX_COUNTED;
        let key = if is_counted { key } else { Key::Others };
        let count = self.0.entry(key).or_default();
        *count += 1;
        (*count == 1).then_some(key)
    }

    /// Returns the keys with further refusals, and starts anew with them counted: what goes on is not
    /// announced again.
    fn summarize(&mut self) -> Vec<(Key, u64)> {
        let further = |(key, count): (&Key, &u64)| (*count > 1).then(|| (*key, count - 1));
        let summary: Vec<_> = self.0.iter().filter_map(further).collect();
        self.0 = summary.iter().map(|(key, _)| (*key, 1)).collect();
        summary
    }
}

/// Logs that a request of this user was refused with this code, unless that is known already.
pub(crate) fn note(uid: u32, code: &'static str) {
    let first = REFUSALS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .count(uid, code);
    match first {
        Some(Key::Of { .. }) => {
            log::info!(USER_ID = uid, CAUSE = code; "refused a request {}: {code}", who(uid));
        }
        Some(Key::Others) => log::info!("refused requests of many users and kinds"),
        None => {}
    }
}

/// Returns whose requests they are. The system shows no user of a connection over TCP.
fn who(uid: u32) -> String {
    match uid {
        NO_USER => "over TCP".to_owned(),
        uid => format!("of user {uid}"),
    }
}

/// Logs the numbers of further refusals. Called at intervals.
pub(crate) fn summarize() {
    let summary = REFUSALS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .summarize();
    for (key, count) in summary {
        match key {
            Key::Of { uid, code } => log::info!(
                USER_ID = uid, CAUSE = code;
                "refused {count} further requests {}: {code}", who(uid)
            ),
            Key::Others => log::info!("refused {count} further requests of many users and kinds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_of_one_user_is_logged_once_and_then_counted() {
        let mut refusals = Refusals(BTreeMap::new());
        let key = |uid| Key::Of { uid, code: "x" };
        assert_eq!(refusals.count(7, "x"), Some(key(7)));
        for _ in 0..1_000 {
            assert_eq!(refusals.count(7, "x"), None);
        }
        assert_eq!(refusals.count(8, "x"), Some(key(8)), "another user");
        assert_eq!(refusals.summarize(), [(key(7), 1_000)]);
        assert_eq!(refusals.count(7, "x"), None, "it goes on");
        assert_eq!(refusals.count(8, "x"), Some(key(8)), "it was over");
        assert_eq!(refusals.summarize(), [(key(7), 1)]);
        assert_eq!(refusals.summarize(), []);
        assert_eq!(refusals.count(7, "x"), Some(key(7)), "it begins again");
    }

    #[test]
    fn many_users_have_few_lines_and_little_memory() {
        let mut refusals = Refusals(BTreeMap::new());
        let lines = (0..100_000).filter_map(|uid| refusals.count(uid, "x"));
        assert_eq!(lines.count(), MAX_COUNTED + 1);
        assert_eq!(refusals.0.len(), MAX_COUNTED + 1);
    }
}
