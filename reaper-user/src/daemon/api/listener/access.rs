//! Which users can connect at all: modes and group of the socket and of its folder.

use rustix::fs::Mode;

use crate::daemon::config::DaemonOptions;

/// Which users can connect. The user of each connection is checked after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketAccess {
    /// The daemon's own user and root.
    Private,
    /// Also the members of this group.
    Group(u32),
    /// All users, because some others are allowed by their uid.
    Shared,
}

impl SocketAccess {
    pub(crate) fn of(options: &DaemonOptions) -> Self {
        Self::with(&options.allow_uids, options.socket_group)
    }

    pub(crate) fn with(allow_uids: &[u32], socket_group: Option<u32>) -> Self {
        match socket_group {
            _ if !allow_uids.is_empty() => Self::Shared,
            Some(group) => Self::Group(group),
            None => Self::Private,
        }
    }

    pub(super) const fn socket_mode(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Group(_) => 0o660,
            Self::Shared => 0o666,
        }
    }

    pub(super) const fn folder_mode(self) -> u32 {
        match self {
            Self::Private => 0o700,
            Self::Group(_) => 0o710,
            Self::Shared => 0o711,
        }
    }

    /// The mode bits that the folder must not have: the right of others to replace files. Where a socket is
    /// open to others between `bind` and the change of its mode, only its folder keeps them out, and a private
    /// one allows them no access. Elsewhere the mode of the socket does, and a folder with mode 0755, as
    /// `RuntimeDirectory=` creates it, is as good.
    pub(super) const fn folder_forbidden(self) -> u32 {
        let is_private_from_the_start = cfg!(any(target_os = "linux", target_os = "android"));
        match self {
            Self::Private if !is_private_from_the_start => 0o077,
            _ => 0o022,
        }
    }

    /// Returns the group whose members cannot enter a folder with this mode and group.
    pub(super) fn shut_out_by(self, folder_mode: u32, folder_group: u32) -> Option<u32> {
        let Self::Group(group) = self else {
            return None;
        };
        let can_enter =
            folder_mode & 0o001 != 0 || folder_group == group && folder_mode & 0o010 != 0;
        (!can_enter).then_some(group)
    }
}

/// Converts to the type of the system, which differs in width between systems.
pub(super) fn permissions(mode: u32) -> Mode {
    let set = |bit: u32, flag: Mode| if mode & bit == 0 { Mode::empty() } else { flag };
    [
        (0o400, Mode::RUSR),
        (0o200, Mode::WUSR),
        (0o100, Mode::XUSR),
        (0o040, Mode::RGRP),
        (0o020, Mode::WGRP),
        (0o010, Mode::XGRP),
        (0o004, Mode::ROTH),
        (0o002, Mode::WOTH),
        (0o001, Mode::XOTH),
    ]
    .into_iter()
    .map(|(bit, flag)| set(bit, flag))
    .collect()
}
