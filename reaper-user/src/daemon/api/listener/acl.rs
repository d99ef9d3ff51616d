//! The access list of the socket file, by which the system keeps out users who are not served. Others
//! could otherwise fill the queue of connections that wait to be accepted.
//!
//! The format of the extended attribute is that of `posix_acl_xattr.h`, which all file systems of Linux
//! share.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::io::Errno;

use crate::daemon::config::DaemonOptions;

/// Who may connect beside the daemon's user and root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AccessList {
    uids: BTreeSet<u32>,
    group: Option<u32>,
}

impl AccessList {
    pub(crate) fn of(options: &DaemonOptions) -> Self {
        Self {
            uids: options.allow_uids.iter().copied().collect(),
            group: options.socket_group,
        }
    }

    /// Sets the list of this file, which must belong to this user. Fails with `EOPNOTSUPP` where files
    /// have no such list.
    #[cfg(target_os = "linux")]
    pub(super) fn set(&self, file: &Path) -> Result<(), Errno> {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(file, "system.posix_acl_access", &self.encoded(), flags)
    }

    /// Other systems have other lists.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn set(&self, _file: &Path) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Connecting needs the right to write. The entries are sorted by tag and id, as the kernel demands.
    #[cfg(target_os = "linux")]
    fn encoded(&self) -> Vec<u8> {
        const VERSION: u32 = 2;
        const READ_WRITE: u16 = 6;
        const NO_ID: u32 = u32::MAX;
        let [owner, user, owning_group, group, mask, others] = [1_u16, 2, 4, 8, 16, 32];
        let entries = std::iter::once((owner, READ_WRITE, NO_ID))
            .chain(self.uids.iter().map(|uid| (user, READ_WRITE, *uid)))
            .chain([(owning_group, 0, NO_ID)])
            .chain(self.group.map(|gid| (group, READ_WRITE, gid)))
            .chain([(mask, READ_WRITE, NO_ID), (others, 0, NO_ID)]);
        let mut encoded = VERSION.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            encoded.extend_from_slice(&tag.to_le_bytes());
            encoded.extend_from_slice(&rights.to_le_bytes());
            encoded.extend_from_slice(&id.to_le_bytes());
        }
        encoded
    }
}
