//! A registry that is kept true: sessions whose processes have ended are removed at once, with the
//! reason. This is what the daemon serves and what other daemons embed.

mod events;
mod prepared;
mod register;
mod registration;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{
    BootTime, Death, ProcessId, Registry, RegistryBuilder, Session, SessionId, Source, SourceState,
    Token,
};
use tokio::sync::watch;

pub use self::events::{EventItem, Events};
#[cfg(feature = "cli")]
pub(crate) use self::prepared::Ended;
pub(crate) use self::prepared::PreparedReaper;
pub use self::registration::{PinnedProcess, Registered, Registration, RegistrationError};
use crate::IdentityStrength;
use crate::clock;
use crate::engine::{Engine, Handler, Prepared, Settings, Sources};
use crate::sources;
use crate::watch::counters::Counters;
use crate::watch::reap_loop::Commit;
use crate::watch::set::WatchSet;
use crate::watch::set::restore::KnownProcess;
use crate::watch::status::SourceStatus;

/// A session registry that removes a session as soon as its process has ended.
///
/// Dropping it stops the watch: deaths that are being handled may still be removed and their hooks may
/// still run, nothing else is removed, and [`Events`] end.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::mpsc;
///
/// use reaperd::{Details, Pid, Random as _, Reaper, Registration, Registry, SessionId, Token, TokenKey};
///
/// let (sender, removals) = mpsc::channel();
/// let registry = Registry::builder(TokenKey::random()?).on_deregister(move |session, removal| {
///     let end = (session.id.clone(), removal.cause());
///     sender.send(end).expect("the receiver lives");
/// });
/// let reaper = Reaper::builder(registry).start().await;
///
/// let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
/// let token = Token::random()?;
/// let registration = Registration::new(SessionId::new("s-1"), token.clone(), Pid::try_from(child.id())?)
///     .details(Details { mesh: "dev".into(), display_name: "api".into(), ..Details::default() });
/// reaper.register(registration)?;
/// assert!(reaper.resolve(&token).is_some());
///
/// child.kill()?;
/// let end = tokio::task::spawn_blocking(move || removals.recv()).await??;
/// assert_eq!(end, (SessionId::new("s-1"), "exited"));
/// assert!(reaper.resolve(&token).is_none());
/// child.wait()?;
/// # Ok(()) }
/// # tokio::runtime::Runtime::new()?.block_on(run())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reaper {
    registry: Registry,
    engine: Engine,
    /// Dropped with the reaper, which ends its streams of events.
    changed: Arc<watch::Sender<()>>,
}

/// Configures a [`Reaper`].
#[derive(Debug)]
#[must_use]
pub struct ReaperBuilder {
    registry: RegistryBuilder,
    settings: Settings,
}

impl ReaperBuilder {
    /// Which sources to run. Default: [`Sources::Auto`].
    pub fn sources(mut self, sources: Sources) -> Self {
        self.settings.sources = sources;
        self
    }

    /// How often every watched process is checked, whatever the other sources report. Default: 5 s.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.settings.sweep_interval = interval;
        self
    }

    /// How many processes may be pinned by a pidfd each. Beyond it a process is identified by its
    /// start time. Default: most of what the limit of open descriptors leaves at the start.
    pub fn max_pidfds(mut self, count: usize) -> Self {
        self.settings.max_pidfds = Some(count);
        self
    }

    /// Starts the sources, and waits until each one except the eBPF probe has reported its state.
    ///
    /// Must be awaited within a tokio runtime with time and I/O enabled. Cancel-safe: a cancelled
    /// start stops what it started.
    ///
    /// The hooks of the registry run on threads of this library: in order for each session, soon
    /// after the event. A hook that blocks delays only later hooks of the same session, as long as
    /// at most 31 others block.
    pub async fn start(self) -> Reaper {
        let reaper = self.start_now();
        reaper.first_reports(&sources::QUICK).await;
        reaper
    }

    /// The same without waiting for reports. Must be called within a tokio runtime.
    pub(crate) fn start_now(self) -> Reaper {
        self.prepare(&[], 1).start_now(|_| {})
    }

    /// Looks for the processes of a registry that is restored. Nothing changes by that. Process ids from
    /// `next_process` on are new.
    pub(crate) fn prepare(self, known: &[KnownProcess], next_process: u64) -> PreparedReaper {
        let prepared = Prepared::new(self.settings);
        let pinned = prepared.watched.pin_again(known);
        PreparedReaper {
            registry: self.registry,
            prepared,
            pinned,
            next_process,
        }
    }

    /// How often the loop that removes dead processes shows that it runs ([`Reaper::beats`]).
    #[cfg_attr(
        not(feature = "cli"),
        expect(dead_code, reason = "the daemon uses this")
    )]
    pub(crate) fn beat_interval(mut self, interval: Option<Duration>) -> Self {
        self.settings.beat_interval = interval;
        self
    }

    /// Puts the hints of the event sources through a filter. For tests.
    #[cfg(feature = "testkit")]
    pub(crate) fn hint_filter(mut self, filter: Arc<dyn crate::engine::HintFilter>) -> Self {
        self.settings.hint_filter = Some(filter);
        self
    }
}

impl Reaper {
    /// Returns a builder for this registry, with default settings.
    pub fn builder(registry: RegistryBuilder) -> ReaperBuilder {
        ReaperBuilder {
            registry,
            settings: Settings::default(),
        }
    }

    /// Returns the live session of this token. A concurrent read of constant cost.
    pub fn resolve(&self, token: &Token) -> Option<Arc<Session>> {
        self.registry.resolve(token, clock::now())
    }

    /// Returns this owner's live session with this id.
    pub fn session(&self, owner: u32, id: &SessionId) -> Option<Arc<Session>> {
        self.registry.session_named(owner, id)
    }

    /// Returns all live sessions in order of registration.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.registry.list()
    }

    /// Returns how many sessions are live.
    pub fn len(&self) -> usize {
        self.registry.len()
    }

    /// Returns whether no session is live.
    pub fn is_empty(&self) -> bool {
        self.registry.is_empty()
    }

    /// Removes the session of this token; its cause is `requested`.
    pub fn deregister(&self, token: &Token) -> Option<Arc<Session>> {
        self.registry.deregister(token, clock::now())
    }

    /// Returns how the process of this session is identified, the weakest way if it hangs on several; `None`
    /// once it is not watched.
    pub fn identity_of(&self, session: &Session) -> Option<IdentityStrength> {
        let watched = session.living().map(|it| self.engine.watched.get(it.id));
        watched.flatten().map(|it| it.strength()).max()
    }

    /// Returns how many processes are watched. Sessions of one process share its entry.
    pub fn processes(&self) -> usize {
        self.engine.watched.len()
    }

    /// Returns when the last complete sweep began; `None` before the first.
    pub fn swept_at(&self) -> Option<BootTime> {
        self.engine.watched.swept_at()
    }

    /// Changes how often every watched process is checked, and checks all of them now.
    pub fn set_sweep_interval(&self, interval: Duration) {
        self.engine.sweep_interval.send_if_modified(|now| {
            let is_new = *now != interval;
            *now = interval;
            is_new
        });
    }

    /// Returns the state of each source.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.engine.status()
    }

    /// Waits until every source, the eBPF probe included, has reported its state. Cancel-safe.
    pub async fn settled(&self) {
        self.engine.first_reports(&sources::ALL).await;
    }

    /// Returns how many hooks panicked.
    pub fn hook_panics(&self) -> u64 {
        self.registry.hook_panics()
    }

    /// Returns for how many sessions the hooks were left out, because too many calls waited behind a
    /// hook that blocks.
    pub fn hooks_lost(&self) -> u64 {
        self.registry.hooks_lost()
    }

    /// Returns how often the loop that removes dead processes panicked and was started again.
    pub fn loop_restarts(&self) -> u64 {
        self.engine.board.loop_restarts()
    }
}

// For the daemon.
#[cfg_attr(
    not(feature = "cli"),
    expect(dead_code, reason = "the daemon uses these")
)]
impl Reaper {
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Changes nothing from now on, whatever ends.
    #[cfg(feature = "cli")]
    pub(crate) fn pause(&self) {
        self.registry.pause();
    }

    /// Ends a pause. What has ended meanwhile is removed now.
    #[cfg(feature = "cli")]
    pub(crate) fn end_pause(&self, mut ended: Ended) {
        self.registry.end_pause();
        ended.remove_from(&self.registry);
        self.engine.request_sweep();
    }

    pub(crate) fn works(&self, source: Source) -> bool {
        self.engine.board.works(source)
    }

    /// Returns a receiver that changes with each beat of the loop. The sender lives as long as this.
    pub(crate) fn beats(&self) -> watch::Receiver<()> {
        self.engine.board.beats()
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.engine.board.counters()
    }

    pub(crate) fn watched(&self) -> &WatchSet {
        &self.engine.watched
    }

    /// Waits until each of these sources that is configured has reported its state.
    pub(crate) async fn first_reports(&self, of: &[Source]) -> Vec<SourceStatus> {
        self.engine.first_reports(of).await
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaper")
            .field("sessions", &self.len())
            .field("processes", &self.processes())
            .finish_non_exhaustive()
    }
}

/// Keeps the registry in step with what the engine reports.
struct KeepTrue(Registry);

/// How many sessions of a dead process are removed before other tasks run: some 200 µs. A small part of the
/// history, so that a subscriber reads of them in time.
const PART: usize = 64;

impl Commit for KeepTrue {
    fn commit(&self, process: ProcessId, death: Death) -> bool {
        let now = clock::now();
        self.0.remove_some_of_process(process, death, now, PART) == PART
    }
}

impl Handler for KeepTrue {
    fn source_changed(&self, state: SourceState) {
        let SourceState {
            source,
            health,
            reason,
        } = &state;
        let colon = if reason.is_empty() { "" } else { ": " };
        log::info!("{source} is {}{colon}{reason}", health.name());
        self.0.publish_source_state(state, clock::now());
    }

    fn swept(&self) {
        self.0.expire(clock::now());
    }
}

#[cfg(test)]
mod tests;
