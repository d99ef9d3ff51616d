//! The user that the worker becomes.

use std::fs;
use std::io;

use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// A user with its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// There is no user of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("/etc/passwd has no user {0:?}")]
pub(crate) struct NoSuchUser(String);

impl User {
    /// Returns the user with this name or number. The group is that of the account; a number without an
    /// account is its own group.
    pub(crate) fn find(text: &str) -> Result<Self, NoSuchUser> {
        let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::find_in(&accounts, text)
    }

    fn find_in(accounts: &str, text: &str) -> Result<Self, NoSuchUser> {
        let number = text.parse().ok();
        let account = accounts.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else {
                return None;
            };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            (name == text || number == Some(uid)).then_some(Self { uid, gid })
        });
        let without_account = number.map(|uid| Self { uid, gid: uid });
        account
            .or(without_account)
            .ok_or_else(|| NoSuchUser(text.to_owned()))
    }

    /// Makes this process, which has one thread, one of the user, without other groups.
    pub(super) fn become_it(self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_or_uid() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nbroken\ndaemon:x:7:8:::\n";
        let find = |text| User::find_in(accounts, text);
        assert_eq!(find("daemon"), Ok(User { uid: 7, gid: 8 }));
        assert_eq!(find("7"), Ok(User { uid: 7, gid: 8 }));
        assert_eq!(
            find("2001"),
            Ok(User {
                uid: 2001,
                gid: 2001
            })
        );
        assert!(find("nobody").is_err());
        assert!(find("-1").is_err());
    }
}
