//! Which program a client talks to. Checked on each connection before a byte is sent, because a
//! request can contain a token, and any user may listen at a path that they can write to.
//!
//! The kernel reports the user who called `listen` on the socket. It must be the caller's own user,
//! root, or the one that the caller named. For root as the caller, another user's program must be
//! named before it gets a secret; without one, root may read from it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tokio::net::UnixStream;

use super::ClientError;

/// The default of `/proc/sys/kernel/overflowuid`: how a user namespace shows a user it does not have.
const OVERFLOW_UID: u32 = 65_534;

/// What a request would give to the program that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Nothing secret, and nothing to change.
    Read,
    /// A token, the data of a session, or an order.
    Sensitive,
}

/// The rule for the other end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TrustedServer {
    /// The user that the caller named.
    pub(super) named: Option<u32>,
    /// The folder of the socket must belong to the caller's user or root, because others can create
    /// it where it is missing.
    pub(super) checks_folder: bool,
}

impl TrustedServer {
    /// Checks the folder, before connecting.
    pub(super) fn check_folder(self, socket: &Path) -> Result<(), ClientError> {
        let folder = socket.parent().filter(|_| self.checks_folder);
        let Some((folder, found)) = folder.and_then(|it| Some((it, it.symlink_metadata().ok()?)))
        else {
            // Without a folder there is no daemon.
            return Ok(());
        };
        if belongs_to_caller(&found) {
            return Ok(());
        }
        Err(ClientError::UntrustedFolder {
            path: folder.to_owned(),
            owner: found.uid(),
            uid: own_uid(),
        })
    }

    /// Checks the user who listens, after connecting.
    pub(super) fn check(
        self,
        stream: &UnixStream,
        socket: &Path,
        request: Request,
    ) -> Result<(), ClientError> {
        let credentials = stream.peer_cred().map_err(|source| ClientError::Connect {
            path: socket.to_owned(),
            source,
        })?;
        let (owner, uid) = (credentials.uid(), own_uid());
        if self.trusts(owner, uid, request) && (self.named == Some(owner) || !is_unmapped(owner)) {
            return Ok(());
        }
        Err(ClientError::UntrustedServer {
            path: socket.to_owned(),
            owner,
            uid,
        })
    }

    /// Whether a program or file of `owner` is as good as one of the caller.
    pub(super) fn trusts(self, owner: u32, own: u32, request: Request) -> bool {
        let may_read = own == 0 && request == Request::Read;
        owner == own || owner == 0 || may_read || self.named == Some(owner)
    }
}

/// Returns whether a file is at this path, in a folder that only the caller's user and root can change.
#[cfg(feature = "cli")]
pub(crate) fn is_in_folder_of_caller(socket: &Path) -> bool {
    let folder = socket.parent().and_then(|it| it.symlink_metadata().ok());
    folder.is_some_and(|folder| belongs_to_caller(&folder)) && socket.symlink_metadata().is_ok()
}

fn belongs_to_caller(folder: &Metadata) -> bool {
    let is_open_to_others = !folder.is_dir() || folder.mode() & 0o022 != 0;
    !is_open_to_others && [0, own_uid()].contains(&folder.uid())
}

pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Returns whether this number stands for every user that this user namespace does not have. Two such
/// users are shown as equal and are not.
fn is_unmapped(uid: u32) -> bool {
    uid == OVERFLOW_UID
        && std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !contains(&map, uid))
}

/// Returns whether a range of this map contains the user (`user_namespaces(7)`).
fn contains(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(first)), Some(Ok(_outside)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        uid.checked_sub(first).is_some_and(|offset| offset < count)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::Request::{Read, Sensitive};
    use super::*;

    #[test]
    fn only_the_own_user_root_and_a_named_user_are_trusted() {
        let unnamed = TrustedServer::default();
        let named = TrustedServer {
            named: Some(7),
            ..unnamed
        };
        for (rule, owner, own, request, expected) in [
            (unnamed, 5, 5, Sensitive, true),
            (unnamed, 0, 5, Sensitive, true),
            (unnamed, 7, 5, Sensitive, false),
            (unnamed, 7, 5, Read, false),
            (named, 7, 5, Sensitive, true),
            (named, 8, 5, Read, false),
            (unnamed, 7, 0, Sensitive, false),
            (unnamed, 7, 0, Read, true),
            (named, 7, 0, Sensitive, true),
            (named, 8, 0, Sensitive, false),
        ] {
            assert_eq!(
                rule.trusts(owner, own, request),
                expected,
                "{rule:?} {owner} {own} {request:?}"
            );
        }
    }

    #[test]
    fn a_user_that_the_namespace_does_not_have_is_recognised() {
        let whole = "         0          0 4294967295\n";
        assert!(contains(whole, 0) && contains(whole, OVERFLOW_UID));
        let root_alone = "         0       1000          1\n";
        assert!(contains(root_alone, 0) && !contains(root_alone, OVERFLOW_UID));
        assert!(!contains("", 0), "no user is mapped yet");
    }

    #[test]
    fn a_default_folder_that_others_can_change_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let socket = parent.path().join("in/s");
        let rule = TrustedServer {
            checks_folder: true,
            ..TrustedServer::default()
        };
        assert!(rule.check_folder(&socket).is_ok(), "no folder, no daemon");
        let folder = socket.parent().unwrap();
        std::fs::create_dir(folder).unwrap();
        for (mode, is_accepted) in [
            (0o700, true),
            (0o711, true),
            (0o770, false),
            (0o1777, false),
        ] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(rule.check_folder(&socket).is_ok(), is_accepted, "{mode:o}");
            assert!(TrustedServer::default().check_folder(&socket).is_ok());
        }
        #[cfg(feature = "cli")]
        {
            std::fs::write(&socket, "").unwrap();
            assert!(!is_in_folder_of_caller(&socket), "open to others");
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).unwrap();
            assert!(is_in_folder_of_caller(&socket));
            std::fs::remove_file(&socket).unwrap();
            assert!(!is_in_folder_of_caller(&socket), "no socket");
        }
        let link = parent.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(rule.check_folder(&link.join("s")).is_err(), "a link");
    }
}
