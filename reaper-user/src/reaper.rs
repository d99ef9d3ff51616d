//! A registry kept true: sessions whose processes have ended are removed, at once and with the
//! reason. This is what the daemon serves and what other daemons embed.

use std::sync::{Arc, OnceLock};

use reaper_registry::{
    Authority, BootTime, Death, Details, Exit, ExitStatus, NewSession, Pid, Presence, Process,
    ProcessId, RegisterError, Registry, RegistryBuilder, Session, SessionId, Source, SourceState,
    Stored, Token, Ttl,
};

use crate::clock;
use crate::engine::{Settings, Watcher};
use crate::hook_threads::HookThreads;
use crate::watch::identity::{AlreadyGone, IdentityStrength, NotPinned};
use crate::watch::reap_loop::Commit;
use crate::watch::set::{WatchSet, Watched};
use crate::watch::status::SourceStatus;
use crate::watch::verdict::Verdict;

/// A session to be registered under a process number.
pub struct Registration {
    pub id: SessionId,
    pub token: Token,
    pub pid: Pid,
    /// The numeric user that registers.
    pub owner: u32,
    pub details: Details,
    pub presence: Option<Presence>,
    /// How long the session asks to stay, counted from the registration. What is granted is at most the
    /// registry's own maximum; a look-up or the first sweep after it removes the session.
    pub ttl: Ttl,
}

/// A session that was registered, and how its process is watched.
#[derive(Debug)]
pub struct Registered {
    pub session: Arc<Session>,
    /// Whether it lived before and was renewed: the same token, session id, process and owner.
    pub renewed: bool,
    pub identity: IdentityStrength,
}

/// Why a registration was refused; nothing is stored then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistrationError<Refusal> {
    /// The process had ended before it could be pinned.
    #[error(transparent)]
    ProcessGone(AlreadyGone),
    /// The number is that of a mere thread, whose end says nothing of its process: register `process`.
    #[error("this is a thread of process {process}; register that one")]
    ThreadId { process: Pid },
    /// The caller's own check of the process refused.
    #[error("the process is refused")]
    Refused(Refusal),
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] RegisterError),
}

impl<Refusal> From<NotPinned> for RegistrationError<Refusal> {
    fn from(reason: NotPinned) -> Self {
        match reason {
            NotPinned::Gone(gone) => Self::ProcessGone(gone),
            NotPinned::ThreadId { process } => Self::ThreadId { process },
        }
    }
}

/// The registry and what keeps it true. Dropped, it stops looking; the registry stays as it is.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::mpsc;
///
/// use reaperd::registry::{Authority, Details, Registry, SessionId, Token, TokenKey, Ttl};
/// use reaperd::{Pid, Reaper, Registration, Settings};
///
/// let (told, ends) = mpsc::channel();
/// // Both from the system's random source in a real program.
/// let (key, token) = (TokenKey::new([7; 16]), Token::from_bytes([9; 32]));
/// let registry = Registry::builder(key).on_deregister(move |session, removal| {
///     let end = (session.id.clone(), removal.cause());
///     told.send(end).expect("somebody listens");
/// });
/// let reaper = Reaper::start(registry, Settings::default());
///
/// let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
/// let registration = Registration {
///     id: SessionId::new("s-1"),
///     token: token.clone(),
///     pid: Pid::try_from(child.id())?,
///     owner: 1000,
///     details: Details { mesh: "dev".into(), display_name: "api".into(), ..Details::default() },
///     presence: None,
///     ttl: Ttl::Process,
/// };
/// let accept_anybody = |_: &_| Ok::<(), std::convert::Infallible>(());
/// reaper.register(registration, Authority::Owner, accept_anybody)?;
/// assert!(reaper.resolve(&token).is_some());
///
/// child.kill()?;
/// let end = tokio::task::spawn_blocking(move || ends.recv()).await??;
/// assert_eq!(end, (SessionId::new("s-1"), "exited"));
/// assert!(reaper.resolve(&token).is_none());
/// child.wait()?;
/// # Ok(()) }
/// # tokio::runtime::Runtime::new()?.block_on(run())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reaper {
    registry: Registry,
    watcher: Watcher,
}

impl Reaper {
    /// Starts watching. To be called within a tokio runtime.
    ///
    /// The hooks of `registry`, if it has any, run on threads of their own: in order for each
    /// session, soon after the event, and one that blocks holds up nothing but itself.
    pub fn start(registry: RegistryBuilder, settings: Settings) -> Self {
        let watched_slot: Arc<OnceLock<Arc<WatchSet>>> = Arc::default();
        let releasing = watched_slot.clone();
        let registry = if registry.has_hooks() {
            let threads = HookThreads::default();
            registry.run_hooks_by(move |hooks| threads.run(hooks))
        } else {
            registry
        };
        // Whatever removes a session, this lets go of its process: exactly once per session stored.
        let registry = registry
            .on_removed(move |session| {
                if let Some(watched) = releasing.get() {
                    watched.release(session.process.id);
                }
            })
            .build();
        let publisher = registry.clone();
        let committing = registry.clone();
        let ageing = registry.clone();
        let watcher = Watcher::start(
            settings,
            move |state| {
                log::info!("{}", in_words(&state));
                publisher.publish_source_state(state, clock::now());
            },
            |watched| {
                watched_slot.get_or_init(|| watched);
                CommitToRegistry(committing)
            },
            Arc::new(move || {
                ageing.expire(clock::now());
            }),
        );
        Self { registry, watcher }
    }

    /// The registry: resolve, list, deregister and subscribe there.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Registers a session for the process that has this number now. `check` may refuse it; what
    /// it reads of the process is true of the very process that is pinned, unless that has ended.
    ///
    /// The same token, session id, process and owner again renew the session in place, without an
    /// event. A token of a live session of another process is refused
    /// ([`RegisterError::TokenInUse`]); that process is looked at first, so one that has just ended
    /// does not stand in the way.
    pub fn register<Refusal>(
        &self,
        registration: Registration,
        authority: Authority,
        check: impl FnOnce(&Watched) -> Result<(), Refusal>,
    ) -> Result<Registered, RegistrationError<Refusal>> {
        let Registration {
            id,
            token,
            pid,
            owner,
            details,
            presence,
            ttl,
        } = registration;
        let mut guard = self.watcher.watched.watch(pid)?;
        check(&guard.watched).map_err(RegistrationError::Refused)?;
        self.end_dead_holder(&token, guard.watched.id);
        let process = Process::new(guard.watched.id, pid, guard.watched.start_time());
        let new = NewSession {
            id,
            token,
            process,
            owner,
            details,
            presence,
            ttl,
        };
        let Stored { session, renewed } = self.registry.register(new, authority, clock::now())?;
        if !renewed {
            // From here on the session's removal lets go, by the hook above. A renewed one has its
            // own hold already.
            guard.detach();
        }
        guard.recheck();
        Ok(Registered {
            session,
            renewed,
            identity: guard.watched.strength(),
        })
    }

    /// Ends the session that has this token if its process is another one and has ended: the loop may
    /// not have got to it yet, and a program that starts again at once must not be refused for that.
    fn end_dead_holder(&self, token: &Token, process: ProcessId) {
        let holder = self
            .resolve(token)
            .filter(|holder| holder.process.id != process)
            .and_then(|holder| self.watcher.watched.get(holder.process.id));
        let Some(holder) = holder else {
            return;
        };
        let table = self.watcher.watched.table.as_ref();
        if let Verdict::Gone {
            evidence,
            pid_reused,
        } = holder.judge(None, table)
        {
            let death = Death {
                source: Source::Register,
                evidence,
                pid_reused,
                exit: holder.wait_status(table).map(|word| Exit {
                    status: ExitStatus::from_wait_status(word),
                    from: Source::Pidfd,
                }),
                detection: None,
            };
            self.registry.remove_process(holder.id, death, clock::now());
        }
    }

    /// The live session of this token.
    pub fn resolve(&self, token: &Token) -> Option<Arc<Session>> {
        self.registry.resolve(token, clock::now())
    }

    /// How strongly the process of this session is pinned; `None` once it is not watched.
    pub fn identity_of(&self, session: &Session) -> Option<IdentityStrength> {
        self.watcher
            .watched
            .get(session.process.id)
            .map(|watched| watched.strength())
    }

    /// How many processes are watched; several sessions may share one.
    pub fn processes(&self) -> usize {
        self.watcher.watched.len()
    }

    /// When the last whole sweep began.
    pub fn swept_at(&self) -> Option<BootTime> {
        self.watcher.watched.swept_at()
    }

    /// Whether this source works, if with limits.
    pub fn works(&self, source: Source) -> bool {
        self.watcher.board.works(source)
    }

    /// Each source as it stands.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.watcher.status()
    }

    /// How often the loop that removes dead processes panicked and was started again.
    pub fn loop_restarts(&self) -> u64 {
        self.watcher.board.loop_restarts()
    }

    /// Waits until each of these that was asked for has said for the first time how it is.
    /// Cancel-safe.
    pub async fn first_reports(&self, of: &[Source]) -> Vec<SourceStatus> {
        self.watcher.first_reports(of).await
    }
}

fn in_words(state: &SourceState) -> String {
    let SourceState {
        source,
        health,
        reason,
    } = state;
    let colon = if reason.is_empty() { "" } else { ": " };
    format!("{source} is {}{colon}{reason}", health.name())
}

struct CommitToRegistry(Registry);

impl Commit for CommitToRegistry {
    fn commit(&self, process: ProcessId, death: Death) {
        self.0.remove_process(process, death, clock::now());
    }
}

#[cfg(test)]
mod tests;
