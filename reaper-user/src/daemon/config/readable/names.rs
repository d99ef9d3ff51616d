//! The numbers of named users and groups.
//!
//! At the start the system's name service finds them. A worker in its sandbox cannot load that: it reads
//! the lists in `/etc`, and remembers what was found at the start.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Mutex, PoisonError};

use super::{Database, Readable};

/// What was found in this process and in the one that it was forked from.
static FOUND: Mutex<BTreeMap<(Database, String), u32>> = Mutex::new(BTreeMap::new());

/// Returns the number of this name.
pub(crate) fn find(database: Database, name: &str) -> Option<u32> {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (database, name.to_owned());
    let id = if is_confined() {
        listed(database, name).or_else(|| found.get(&key).copied())
    } else {
        match database {
            Database::Users => uzers::get_user_by_name(name).map(|user| user.uid()),
            Database::Groups => uzers::get_group_by_name(name).map(|group| group.gid()),
        }
    };
    if let Some(id) = id {
        found.insert(key, id);
    }
    id
}

#[cfg(target_os = "linux")]
fn is_confined() -> bool {
    crate::daemon::monitor::pid().is_some()
}

/// Only Linux has a sandbox.
#[cfg(not(target_os = "linux"))]
fn is_confined() -> bool {
    false
}

fn listed(database: Database, name: &str) -> Option<u32> {
    let mut text = String::new();
    let mut file = Readable::Database(database).open().ok()??;
    file.read_to_string(&mut text).ok()?;
    id_in(&text, name)
}

/// Finds a name in the text of `/etc/passwd` or `/etc/group`: the number is the third field of both.
fn id_in(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name) && !name.is_empty();
        is_it.then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_whole_fields() {
        let text = "root:x:0:0:root:/root:/bin/sh\nal:x:12:13::/:\nalice:x:2001:7::/:\nbad:x:y:\n";
        assert_eq!(id_in(text, "alice"), Some(2_001));
        assert_eq!(id_in(text, "al"), Some(12));
        for unknown in ["", "ali", "bad", "x", "alice:x"] {
            assert_eq!(id_in(text, unknown), None, "{unknown:?}");
        }
    }
}
