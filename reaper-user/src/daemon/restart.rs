//! How a daemon continues the sessions of the one before it.
//!
//! In two phases. [`Restart::read`] and `prepare` of the reaper only read: the memory file, the secrets,
//! the processes. Until then the former daemon may still be at work, and if this start fails, nothing
//! has changed. [`Restart::begin`] is the beginning of the second phase: from then on this process
//! writes, and the former one must not.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd as _, OwnedFd};
#[cfg(target_os = "linux")]
use std::sync::Arc;

use reaper_registry::{Registry, RegistryBuilder, State, TokenKey};

use super::carried::Carried;
use super::run::StartupError;
use crate::sys::secret_arena::SecretArena;
use crate::watch::set::restore::KnownProcess;
#[cfg(target_os = "linux")]
use {
    super::carried::Kind,
    super::memory_file::{Found, Identity, MemoryFile},
    super::{monitor, systemd},
};

/// What was carried over from the daemon before this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CarriedOver {
    /// How many workers the monitor has replaced.
    pub(crate) restarts: u32,
    /// How many sessions are continued.
    pub(crate) sessions: usize,
    /// How many more there were, whose processes or lifetimes ended while there was no daemon.
    pub(crate) ended: usize,
    /// How many records could not be read.
    pub(crate) damaged: usize,
    /// Why nothing was carried over although there was something; empty otherwise.
    pub(crate) refused: String,
    /// Whether another process has what the next daemon needs.
    pub(crate) is_kept: bool,
}

impl fmt::Display for CarriedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sessions, ended, ..
        } = self;
        write!(
            f,
            "carried over {sessions} sessions, {ended} ended while away"
        )
    }
}

/// The state with which the daemon starts.
pub(crate) struct Restart {
    pub(crate) secret_memory: SecretArena,
    /// The first part of the ids of events.
    pub(crate) epoch: u64,
    pub(crate) carried_over: CarriedOver,
    /// Taken by the registry.
    token_key: Option<TokenKey>,
    state: Option<State>,
    next_process: u64,
    #[cfg(target_os = "linux")]
    file: Option<Arc<MemoryFile>>,
    /// The file and the secrets are those of a former daemon.
    #[cfg(target_os = "linux")]
    is_former: bool,
}

impl Restart {
    /// Starts with nothing, and without a memory file.
    pub(crate) fn empty() -> Result<Self, StartupError> {
        let random = |error: getrandom::Error| StartupError::Random(error.into());
        let secret_memory = SecretArena::new();
        Ok(Self {
            token_key: Some(new_token_key(&secret_memory)?),
            epoch: getrandom::u64().map_err(random)?,
            secret_memory,
            carried_over: CarriedOver::default(),
            state: None,
            next_process: 1,
            #[cfg(target_os = "linux")]
            file: None,
            #[cfg(target_os = "linux")]
            is_former: false,
        })
    }

    /// Returns the processes of the sessions.
    pub(crate) fn processes(&self) -> (Vec<KnownProcess>, u64) {
        let mut known: BTreeMap<_, KnownProcess> = BTreeMap::new();
        let sessions = self.state.iter().flat_map(|state| &state.sessions);
        for (session, process) in sessions.flat_map(|it| it.living().map(move |one| (it, one))) {
            let entry = known.entry(process.id).or_insert(KnownProcess {
                id: process.id,
                pid: process.pid,
                start_time: None,
                inode: None,
                alive_at: session.registered_at.boot,
                sessions: 0,
            });
            entry.sessions += 1;
            entry.start_time = entry.start_time.or(process.start_time());
            entry.inode = entry.inode.or(process.inode);
            entry.alive_at = entry.alive_at.max(session.registered_at.boot);
        }
        (known.into_values().collect(), self.next_process)
    }

    /// Returns the settings of the registry: its key, its state, and where it writes. The second one has
    /// another key and no state.
    pub(crate) fn registry(&mut self) -> Result<RegistryBuilder, StartupError> {
        let key = match self.token_key.take() {
            Some(key) => key,
            None => new_token_key(&self.secret_memory)?,
        };
        let mut registry = Registry::builder(key);
        if let Some(state) = self.state.take() {
            registry = registry.restore(state);
        }
        #[cfg(target_os = "linux")]
        if let Some(file) = &self.file {
            registry = registry.journal(file.clone());
        }
        Ok(registry)
    }

    /// Returns what a successor needs.
    pub(crate) fn belongings(&self) -> Belongings {
        Belongings {
            secret_memory: self.secret_memory.clone(),
            #[cfg(target_os = "linux")]
            file: self.file.clone(),
        }
    }

    /// Notes how many of the sessions are still there, and logs it.
    pub(crate) fn continued(&mut self, sessions: usize) {
        let former = self.carried_over.sessions;
        self.carried_over.sessions = sessions;
        self.carried_over.ended = former.saturating_sub(sessions);
        if former > 0 || self.carried_over.restarts > 0 {
            log::info!("{}", self.carried_over);
        }
    }
}

/// The memory with the sessions and their secrets.
pub(crate) struct Belongings {
    secret_memory: SecretArena,
    #[cfg(target_os = "linux")]
    file: Option<Arc<MemoryFile>>,
}

impl Belongings {
    /// Returns duplicates of the descriptors of the memory file and of the secrets. An error has the
    /// reason why there are none.
    #[cfg(target_os = "linux")]
    pub(crate) fn descriptors(&self) -> io::Result<[OwnedFd; 2]> {
        let missing = || io::Error::other("its sessions are in memory that cannot be handed over");
        let file = self.file.as_ref().ok_or_else(missing)?;
        file.lend(true);
        let secrets = self.secret_memory.descriptor().ok_or_else(missing)?;
        Ok([file.descriptor()?, secrets])
    }

    /// Uses the memory again, which no other daemon uses any more.
    pub(crate) fn take_back(&self) {
        #[cfg(target_os = "linux")]
        if let Some(file) = &self.file {
            file.lend(false);
        }
    }

    /// Gives memory back that was needed at a peak.
    pub(crate) fn give_back(&self) {
        #[cfg(target_os = "linux")]
        if let Some(file) = &self.file
            && let Err(error) = file.give_back()
        {
            log::debug!("the memory file keeps its memory: {error}");
        }
    }

    /// Returns whether the memory file has all sessions.
    pub(crate) fn are_complete(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            self.file.as_ref().is_some_and(|file| file.is_complete())
        }
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Other systems have no such memory.
    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, reason = "the same signature everywhere")]
    pub(crate) fn descriptors(&self) -> io::Result<[std::os::fd::OwnedFd; 2]> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn new_token_key(memory: &SecretArena) -> Result<TokenKey, StartupError> {
    TokenKey::written_to(memory.take(), |key| getrandom::fill(key))
        .map_err(|error: getrandom::Error| StartupError::Random(error.into()))
}

/// On other systems nothing outlives the daemon.
#[cfg(not(target_os = "linux"))]
impl Restart {
    pub(crate) fn read(_carried: &mut Carried) -> Result<Self, StartupError> {
        Self::empty()
    }

    #[expect(clippy::unused_self, reason = "the same signature everywhere")]
    pub(crate) fn begin(&mut self) {}

    pub(crate) fn end(&self, registry: &Registry) {
        registry.wipe_secret_keys();
    }
}

#[cfg(target_os = "linux")]
impl Restart {
    /// Reads what a former daemon has left. What cannot be used is left as it is, and the log says why.
    pub(crate) fn read(carried: &mut Carried) -> Result<Self, StartupError> {
        let mut refused = String::new();
        if let Some(table) = carried.table.take() {
            match Self::of_former(table, carried.secrets.take()) {
                Ok(restart) => return Ok(restart.after(carried.restarts)),
                Err(reason) => refused = reason,
            }
            log::error!("the sessions of the former daemon are not carried over: {refused}");
        }
        let mut restart = Self::empty()?.with_new_file();
        restart.carried_over.refused = refused;
        Ok(restart.after(carried.restarts))
    }

    fn after(mut self, restarts: u32) -> Self {
        self.carried_over.restarts = restarts;
        self
    }

    fn of_former(table: OwnedFd, secrets: Option<OwnedFd>) -> Result<Self, String> {
        let here = Identity::of_this_process(0, None).map_err(|error| error.to_string())?;
        let secrets = secrets.ok_or("the memory of its secret keys is missing")?;
        let secret_memory = SecretArena::open(secrets)
            .map_err(|error| format!("the memory of its secret keys cannot be read: {error}"))?;
        let found = MemoryFile::read(table, &here, |slot| secret_memory.adopt(slot));
        let Found {
            file,
            state,
            identity,
            program,
            next_process,
            damaged,
        } = found.map_err(|error| error.to_string())?;
        let token_key = identity
            .token_key
            .and_then(|slot| secret_memory.adopt(slot))
            .map(TokenKey::adopt)
            .ok_or("the key of its tokens is missing")?;
        if damaged > 0 {
            log::error!("{damaged} records of the former daemon are damaged and left out");
        }
        log::debug!("the memory file was created by reaperd {program}");
        Ok(Self {
            secret_memory,
            epoch: identity.epoch,
            carried_over: CarriedOver {
                sessions: state.sessions.len(),
                damaged,
                ..CarriedOver::default()
            },
            token_key: Some(token_key),
            state: Some(state),
            next_process,
            file: Some(Arc::new(file)),
            is_former: true,
        })
    }

    /// Begins to write. The former daemon must have ended.
    pub(crate) fn begin(&mut self) {
        let Some(file) = &self.file else {
            return;
        };
        self.secret_memory.begin();
        file.begin();
        self.carried_over.is_kept = if self.is_former {
            monitor::pid().is_some()
        } else {
            let secrets = self.secret_memory.descriptor();
            // Secrets first: a table without them is of no use.
            file.descriptor()
                .ok()
                .zip(secrets)
                .is_some_and(|(table, secrets)| {
                    monitor::keep(Kind::Secrets, secrets.as_fd())
                        && monitor::keep(Kind::Table, table.as_fd())
                })
        };
    }

    /// Wipes everything after an orderly end, unless a service manager may have it for the next start.
    pub(crate) fn end(&self, registry: &Registry) {
        if systemd::has_service_manager() {
            return;
        }
        if let Some(file) = &self.file {
            file.wipe();
        }
        registry.wipe_secret_keys();
    }

    fn with_new_file(mut self) -> Self {
        let slot = self.token_key.as_ref().and_then(TokenKey::slot);
        let identity = Identity::of_this_process(self.epoch, slot);
        match identity.and_then(|identity| MemoryFile::create(&identity)) {
            Ok(file) => self.file = Some(Arc::new(file)),
            Err(error) => log::warn!("sessions will not outlive this process: {error}"),
        }
        self
    }
}
