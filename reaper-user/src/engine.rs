//! The machine room that both doors of the library share: sources, the set of watched processes and
//! the loop, started together and stopped together.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{Source, SourceState};
use tokio::task::JoinSet;

use crate::sources::{self, Context, SourceError, sweep};
use crate::sys::foreign_proc::ForeignProc;
use crate::sys::process_table;
use crate::testkit::fault_injection::Faults;
use crate::watch::fd_budget::FdBudget;
use crate::watch::hint::{self, HintSender};
use crate::watch::reap_loop::{self, Commit};
use crate::watch::set::WatchSet;
use crate::watch::status::{SourceStatus, StatusBoard};

/// Which sources of hints to run. The sweep is always one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(BTreeSet<Source>);

impl Default for Sources {
    /// Every source that this system could have; those that do not work here say so and cost
    /// nothing.
    fn default() -> Self {
        Self(sources::ALL.into())
    }
}

impl Sources {
    /// These, and the sweep.
    pub fn only(sources: impl IntoIterator<Item = Source>) -> Self {
        Self(sources.into_iter().chain([Source::Sweep]).collect())
    }

    pub(crate) fn contains(&self, source: Source) -> bool {
        self.0.contains(&source)
    }
}

/// How to watch.
#[derive(Clone, Debug)]
pub struct Settings {
    pub sources: Sources,
    pub sweep_interval: Duration,
    /// How many processes may be pinned by a descriptor each. `None`: most of what the limit of open
    /// descriptors leaves at the start.
    pub max_pinned: Option<usize>,
    /// For tests: what befalls the hints of the event sources.
    #[doc(hidden)]
    pub faults: Option<Faults>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sources: Sources::default(),
            sweep_interval: sweep::DEFAULT_INTERVAL,
            max_pinned: None,
            faults: None,
        }
    }
}

/// Running sources and their loop. Dropped, it stops them.
pub(crate) struct Watcher {
    pub(crate) watched: Arc<WatchSet>,
    pub(crate) board: StatusBoard,
    _tasks: JoinSet<()>,
}

impl Watcher {
    /// Starts everything. To be called within a tokio runtime.
    ///
    /// `make_commit` gets the set, because what is committed lets go of its processes there;
    /// `each_sweep` is called at each sweep.
    pub(crate) fn start<C: Commit>(
        settings: Settings,
        on_source_change: impl Fn(SourceState) + Send + Sync + 'static,
        make_commit: impl FnOnce(Arc<WatchSet>) -> C,
        each_sweep: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let (hints, receiver) = hint::channel();
        let table = process_table::of_this_system();
        if ForeignProc::is_shown_by(table.as_ref()) {
            let remedy = ForeignProc::REMEDY;
            log::warn!(
                "{ForeignProc}; nothing is read there, and pids are asked for by signals: {remedy}"
            );
        }
        let budget = settings
            .max_pinned
            .map_or_else(FdBudget::from_limits, FdBudget::new);
        let watched = WatchSet::new(table, budget, hints.clone());
        let board = StatusBoard::new(on_source_change);
        let mut tasks = JoinSet::new();
        tasks.spawn(reap_loop::supervise(
            watched.clone(),
            board.clone(),
            make_commit(watched.clone()),
            hints.clone(),
            receiver,
        ));

        let sweep = sweep::Settings {
            interval: settings.sweep_interval,
            each_pass: each_sweep,
        };
        for source in &settings.sources.0 {
            board.reporter(*source).starting();
        }
        let mut supervision = Supervision {
            tasks: &mut tasks,
            hints,
            watched: watched.clone(),
            board: board.clone(),
        };
        supervision.start(Source::Sweep, None, move |context| {
            sweep::run(context, sweep.clone())
        });
        start_event_sources(supervision, &settings.sources, settings.faults.as_ref());
        Self {
            watched,
            board,
            _tasks: tasks,
        }
    }

    /// Waits until each of these that was asked for has said how it is. Cancel-safe.
    pub(crate) async fn first_reports(&self, of: &[Source]) -> Vec<SourceStatus> {
        for status in self.board.all(of) {
            if status.wanted {
                self.board.first_report(status.source).await;
            }
        }
        self.board.all(of)
    }

    pub(crate) fn status(&self) -> Vec<SourceStatus> {
        self.board.all(&sources::ALL)
    }
}

/// Starts sources, each with what it is given and a supervisor of its own.
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
        faults: Option<&Faults>,
        run: impl Fn(Context) -> Run + Send + 'static,
    ) where
        Run: Future<Output = Result<Infallible, SourceError>> + Send + 'static,
    {
        let mut context = self.context(source);
        let Some(faults) = faults.cloned() else {
            self.tasks
                .spawn(sources::supervisor::supervise(context, run));
            return;
        };
        let (hints, line) = faults.line_to(context.hints, source);
        context.hints = hints;
        self.tasks.spawn(line);
        self.tasks
            .spawn(sources::supervisor::supervise(context, move |context| {
                faults.clone().until_killed(source, run(context))
            }));
    }
}

#[cfg(target_os = "linux")]
fn start_event_sources(mut sources: Supervision<'_>, wanted: &Sources, faults: Option<&Faults>) {
    if wanted.contains(Source::Pidfd) {
        sources.start(Source::Pidfd, faults, sources::pidfd::run);
    }
    #[cfg(feature = "ebpf")]
    if wanted.contains(Source::Ebpf) {
        sources.start(Source::Ebpf, faults, sources::ebpf::run);
    }
    #[cfg(not(feature = "ebpf"))]
    if wanted.contains(Source::Ebpf) {
        sources
            .context(Source::Ebpf)
            .reporter
            .down("not built in", "build with the feature `ebpf`");
    }
    if wanted.contains(Source::Netlink) {
        sources.start(Source::Netlink, faults, sources::netlink::run);
    }
}

/// Elsewhere the sweep is all there is; the others say so.
#[cfg(not(target_os = "linux"))]
fn start_event_sources(sources: Supervision<'_>, wanted: &Sources, _faults: Option<&Faults>) {
    for source in [Source::Pidfd, Source::Netlink, Source::Ebpf] {
        if wanted.contains(source) {
            sources
                .context(source)
                .reporter
                .down("Linux only", "the sweep covers every session here");
        }
    }
}
