//! What outlives a worker: descriptors of its table, its secrets, its listening socket, its lock and its
//! settings. The monitor has duplicates of them, the service manager may have some, and the next worker gets
//! them.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// The format of the memory file. A change of its blocks or records gets the next number; the oldest that is
/// read follows one behind.
pub(crate) const TABLE_FORMAT: u32 = 2;

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The memory file of the registry.
    Table = 1,
    /// The memory of secret keys.
    Secrets = 2,
    /// The listening socket.
    Listener = 3,
    /// The lock file beside the socket.
    Lock = 4,
    /// The settings of the last reload, for workers of the same monitor.
    Settings = 5,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Table,
        Self::Secrets,
        Self::Listener,
        Self::Lock,
        Self::Settings,
    ];

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Returns the name in the descriptor store of a service manager.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Table => "reaperd-table",
            Self::Secrets => "reaperd-secrets",
            Self::Listener => "reaperd-listener",
            Self::Lock => "reaperd-lock",
            Self::Settings => "reaperd-settings",
        }
    }

    /// Returns whether it also outlives the monitor. A new start reads the configuration instead.
    pub(crate) fn outlives_monitor(self) -> bool {
        self != Self::Settings
    }
}

/// The descriptors that a worker starts with, or that the monitor keeps for the next one.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) table: Option<OwnedFd>,
    pub(crate) secrets: Option<OwnedFd>,
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) lock: Option<OwnedFd>,
    pub(crate) settings: Option<OwnedFd>,
    /// How many workers this monitor has replaced.
    pub(crate) restarts: u32,
    /// The connection to the daemon that is to be replaced and still uses them.
    pub(crate) lent_by: Option<OwnedFd>,
}

impl Carried {
    /// Sorts descriptors by their names. Returns those with other names as well.
    pub(crate) fn from_named(named: Vec<(String, OwnedFd)>) -> (Self, Vec<(String, OwnedFd)>) {
        let mut carried = Self::default();
        let mut others = Vec::new();
        for (name, fd) in named {
            match Kind::ALL.into_iter().find(|kind| kind.name() == name) {
                Some(kind) => carried.put(kind, fd),
                None => others.push((name, fd)),
            }
        }
        (carried, others)
    }

    /// Replaces the descriptor of this kind.
    pub(crate) fn put(&mut self, kind: Kind, fd: OwnedFd) {
        *self.place(kind) = Some(fd);
    }

    /// Returns the descriptor of this kind.
    pub(crate) fn get(&self, kind: Kind) -> Option<BorrowedFd<'_>> {
        let fd = match kind {
            Kind::Table => &self.table,
            Kind::Secrets => &self.secrets,
            Kind::Listener => &self.listener,
            Kind::Lock => &self.lock,
            Kind::Settings => &self.settings,
        };
        fd.as_ref().map(|fd| fd.as_fd())
    }

    fn place(&mut self, kind: Kind) -> &mut Option<OwnedFd> {
        match kind {
            Kind::Table => &mut self.table,
            Kind::Secrets => &mut self.secrets,
            Kind::Listener => &mut self.listener,
            Kind::Lock => &mut self.lock,
            Kind::Settings => &mut self.settings,
        }
    }
}
