//! What both entry points of the library share: the sources, the set of watched processes and the
//! reap loop, started together and stopped together.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{Death, ProcessId, Source, SourceState};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::sources::{self, Context, SourceError, sweep};
use crate::sys::foreign_proc::ForeignProc;
use crate::sys::process_table;
use crate::watch::fd_budget::FdBudget;
use crate::watch::hint::{self, HintReceiver, HintSender};
use crate::watch::reap_loop::{self, Commit};
use crate::watch::set::WatchSet;
use crate::watch::status::{SourceStatus, StatusBoard};

/// Which sources of exit events to run. The sweep always runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sources {
    /// Every source that this system can have. One that does not work here reports why and costs
    /// nothing.
    #[default]
    Auto,
    /// These, and the sweep.
    Only(BTreeSet<Source>),
}

impl Sources {
    /// These, and the sweep.
    pub fn only(sources: impl IntoIterator<Item = Source>) -> Self {
        Self::Only(sources.into_iter().collect())
    }

    pub(crate) fn contains(&self, source: Source) -> bool {
        match self {
            Self::Auto => true,
            Self::Only(sources) => source == Source::Sweep || sources.contains(&source),
        }
    }
}

/// How to watch.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) sources: Sources,
    pub(crate) sweep_interval: Duration,
    /// How many processes may be pinned by a descriptor each. `None`: most of what the limit of open
    /// descriptors leaves at the start.
    pub(crate) max_pidfds: Option<usize>,
    pub(crate) hint_filter: Option<Arc<dyn HintFilter>>,
    /// How often the loop shows that it runs. `None`: never, which costs nothing.
    pub(crate) beat_interval: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sources: Sources::default(),
            sweep_interval: sweep::DEFAULT_INTERVAL,
            max_pidfds: None,
            hint_filter: None,
            beat_interval: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("sources", &self.sources)
            .field("sweep_interval", &self.sweep_interval)
            .field("max_pidfds", &self.max_pidfds)
            .finish_non_exhaustive()
    }
}

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub(crate) type SourceRun = BoxFuture<Result<Infallible, SourceError>>;

/// Sits between the event sources and the reap loop. Tests use it to lose, delay and repeat hints.
pub(crate) trait HintFilter: Send + Sync {
    /// Returns where the source sends its hints, and a task that passes them on to `to`.
    fn attach(&self, source: Source, to: HintSender) -> (HintSender, BoxFuture<()>);

    /// Wraps one run of the source.
    fn wrap(&self, source: Source, run: SourceRun) -> SourceRun;
}

impl<C: Commit> Commit for Arc<C> {
    fn commit(&self, process: ProcessId, death: Death) -> bool {
        (**self).commit(process, death)
    }
}

/// What the engine reports. Called on its tasks: must be quick, and must not block.
pub(crate) trait Handler: Commit {
    /// A source changed its health.
    fn source_changed(&self, _state: SourceState) {}

    /// A sweep has begun.
    fn swept(&self) {}
}

/// An engine that is not running yet. Its set of watched processes exists already, because what is
/// built on the engine may need it.
pub(crate) struct Prepared {
    pub(crate) watched: Arc<WatchSet>,
    settings: Settings,
    hints: HintSender,
    receiver: HintReceiver,
}

/// Running sources and their loop. Dropping it stops them.
pub(crate) struct Engine {
    pub(crate) watched: Arc<WatchSet>,
    pub(crate) board: StatusBoard,
    #[cfg_attr(
        not(feature = "cli"),
        expect(dead_code, reason = "the daemon requests sweeps")
    )]
    hints: HintSender,
    pub(crate) sweep_interval: watch::Sender<Duration>,
    _tasks: JoinSet<()>,
}

impl Prepared {
    pub(crate) fn new(settings: Settings) -> Self {
        let (hints, receiver) = hint::channel();
        let table = process_table::of_this_system();
        if ForeignProc::is_shown_by(table.as_ref()) {
            let remedy = ForeignProc::REMEDY;
            log::warn!(
                "{ForeignProc}; nothing is read there, and pids are checked by signals: {remedy}"
            );
        }
        let budget = settings
            .max_pidfds
            .map_or_else(FdBudget::from_limits, FdBudget::new);
        Self {
            watched: WatchSet::new(table, budget, hints.clone()),
            settings,
            hints,
            receiver,
        }
    }

    /// Starts the loop and the sources. Must be called within a tokio runtime.
    pub(crate) fn start(self, handler: impl Handler) -> Engine {
        let Self {
            watched,
            settings,
            hints,
            receiver,
        } = self;
        let handler = Arc::new(handler);
        let notified = handler.clone();
        let board = StatusBoard::new(move |state| notified.source_changed(state));
        let mut tasks = JoinSet::new();
        tasks.spawn(reap_loop::supervise(
            watched.clone(),
            board.clone(),
            handler.clone(),
            hints.clone(),
            receiver,
            settings.beat_interval,
        ));
        for source in sources::ALL {
            if settings.sources.contains(source) {
                board.reporter(source).starting();
            }
        }
        let mut supervision = Supervision {
            tasks: &mut tasks,
            hints: hints.clone(),
            watched: watched.clone(),
            board: board.clone(),
        };
        let (sweep_interval, interval) = watch::channel(settings.sweep_interval);
        let sweep = sweep::Settings {
            interval,
            each_pass: Arc::new(move || handler.swept()),
        };
        supervision.start(Source::Sweep, None, move |context| {
            sweep::run(context, sweep.clone())
        });
        start_event_sources(supervision, &settings.sources, settings.hint_filter);
        Engine {
            watched,
            board,
            hints,
            sweep_interval,
            _tasks: tasks,
        }
    }
}

impl Engine {
    /// Waits until each of these sources that is configured has reported its state. Cancel-safe.
    pub(crate) async fn first_reports(&self, of: &[Source]) -> Vec<SourceStatus> {
        for status in self.board.all(of) {
            if status.wanted {
                self.board.first_report(status.source).await;
            }
        }
        self.board.all(of)
    }

    /// Requests a check of every process now.
    #[cfg(feature = "cli")]
    pub(crate) fn request_sweep(&self) {
        self.hints.request_sweep();
    }

    pub(crate) fn status(&self) -> Vec<SourceStatus> {
        self.board.all(&sources::ALL)
    }
}

/// Starts sources, each under a supervisor.
struct Supervision<'a> {
    tasks: &'a mut JoinSet<()>,
    hints: HintSender,
    watched: Arc<WatchSet>,
    board: StatusBoard,
}

impl Supervision<'_> {
    fn context(&self, source: Source) -> Context {
        Context {
            hints: self.hints.clone(),
            watched: self.watched.clone(),
            reporter: self.board.reporter(source),
        }
    }

    fn start<Run>(
        &mut self,
        source: Source,
        filter: Option<Arc<dyn HintFilter>>,
        run: impl Fn(Context) -> Run + Send + 'static,
    ) where
        Run: Future<Output = Result<Infallible, SourceError>> + Send + 'static,
    {
        let mut context = self.context(source);
        let Some(filter) = filter else {
            self.tasks
                .spawn(sources::supervisor::supervise(context, run));
            return;
        };
        let (hints, pass_on) = filter.attach(source, context.hints);
        context.hints = hints;
        self.tasks.spawn(pass_on);
        self.tasks
            .spawn(sources::supervisor::supervise(context, move |context| {
                filter.wrap(source, Box::pin(run(context)))
            }));
    }
}

#[cfg(target_os = "linux")]
fn start_event_sources(
    mut supervision: Supervision<'_>,
    wanted: &Sources,
    filter: Option<Arc<dyn HintFilter>>,
) {
    if wanted.contains(Source::Pidfd) {
        supervision.start(Source::Pidfd, filter.clone(), sources::pidfd::run);
    }
    #[cfg(feature = "ebpf")]
    if wanted.contains(Source::Ebpf) {
        supervision.start(Source::Ebpf, filter.clone(), sources::ebpf::run);
    }
    #[cfg(not(feature = "ebpf"))]
    if wanted.contains(Source::Ebpf) {
        supervision
            .context(Source::Ebpf)
            .reporter
            .down("not built in", "build with the feature `ebpf`");
    }
    if wanted.contains(Source::Netlink) {
        supervision.start(Source::Netlink, filter, sources::netlink::run);
    }
}

/// On other systems the sweep is the only source. The others report that.
#[cfg(not(target_os = "linux"))]
fn start_event_sources(
    supervision: Supervision<'_>,
    wanted: &Sources,
    _filter: Option<Arc<dyn HintFilter>>,
) {
    for source in [Source::Pidfd, Source::Netlink, Source::Ebpf] {
        if wanted.contains(source) {
            supervision
                .context(source)
                .reporter
                .down("Linux only", "the sweep covers every session here");
        }
    }
}
