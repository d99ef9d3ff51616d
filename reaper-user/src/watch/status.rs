//! The health of each source: written by the sources, read by the daemon and the library.
//!
//! A source counts as working only while it reports so. Nothing is inferred here.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reaper_registry::{Source, SourceHealth, SourceState};
use tokio::sync::watch;

use crate::watch::counters::Counters;

/// The status of one source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SourceStatus {
    /// Which source.
    pub source: Source,
    /// Whether it is configured to run.
    pub wanted: bool,
    /// Whether it has worked at any time. One that never did is not missed while others work.
    pub has_worked: bool,
    /// Its last report; `None` before the first.
    pub health: Option<SourceHealth>,
    /// Why it is not up, in a sentence without a full stop; empty when it is up.
    pub reason: String,
    /// What would fix it; empty when nothing needs fixing.
    pub remedy: String,
    /// How it works: filter, buffer, descriptors.
    pub detail: String,
    /// Events known to be lost.
    pub lost: u64,
    /// Messages to it that did not come from the kernel. They are ignored.
    pub forged: u64,
}

impl SourceStatus {
    /// Returns the name of the state in JSON and on screen.
    pub fn state(&self) -> &'static str {
        match self.health {
            Some(health) => health.name(),
            None if self.wanted => "starting",
            None => "off",
        }
    }

    /// Returns whether it delivers, with or without limits.
    pub fn works(&self) -> bool {
        matches!(self.health, Some(SourceHealth::Up | SourceHealth::Degraded))
    }
}

type OnChange = Box<dyn Fn(SourceState) + Send + Sync>;

/// The status of all sources; clones share it.
#[derive(Clone)]
pub(crate) struct StatusBoard(Arc<Shared>);

struct Shared {
    sources: Mutex<BTreeMap<Source, SourceStatus>>,
    on_change: OnChange,
    changed: watch::Sender<()>,
    beats: watch::Sender<()>,
    counters: Counters,
}

impl StatusBoard {
    /// Creates a board on which no source runs. `on_change` is called after each change of health.
    pub(crate) fn new(on_change: impl Fn(SourceState) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            sources: Mutex::default(),
            on_change: Box::new(on_change),
            changed: watch::Sender::new(()),
            beats: watch::Sender::new(()),
            counters: Counters::default(),
        }))
    }

    /// Returns the reporter of one source.
    pub(crate) fn reporter(&self, source: Source) -> Reporter {
        Reporter {
            board: self.clone(),
            source,
        }
    }

    /// Returns the status of a source.
    pub(crate) fn get(&self, source: Source) -> SourceStatus {
        self.sources()
            .get(&source)
            .cloned()
            .unwrap_or_else(|| off(source))
    }

    /// Returns the status of these sources, in this order.
    pub(crate) fn all(&self, sources: &[Source]) -> Vec<SourceStatus> {
        sources.iter().map(|source| self.get(*source)).collect()
    }

    /// Returns whether the source works, with or without limits.
    pub(crate) fn works(&self, source: Source) -> bool {
        // Called for each request and each death, so the texts are not copied.
        self.sources().get(&source).is_some_and(SourceStatus::works)
    }

    /// Waits for the first report of the source. Cancel-safe.
    pub(crate) async fn first_report(&self, source: Source) -> SourceStatus {
        let mut changes = self.0.changed.subscribe();
        loop {
            let status = self.get(source);
            // The sender lives as long as `self`, so there is no error. If there were one, no
            // further change could be seen.
            if status.health.is_some() || changes.changed().await.is_err() {
                return status;
            }
        }
    }

    /// Returns how often the loop that removes dead processes was restarted after a panic.
    pub(crate) fn loop_restarts(&self) -> u64 {
        self.counters().loop_restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn count_loop_restart(&self) {
        self.counters()
            .loop_restarts
            .fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Notes that the loop runs.
    pub(crate) fn beat(&self) {
        self.0.beats.send_replace(());
    }

    /// Returns a receiver that changes with each beat of the loop.
    pub(crate) fn beats(&self) -> watch::Receiver<()> {
        self.0.beats.subscribe()
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<Source, SourceStatus>> {
        self.0
            .sources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, source: Source, change: impl FnOnce(&mut SourceStatus)) {
        let changed = {
            let mut sources = self.sources();
            let status = sources.entry(source).or_insert_with(|| off(source));
            let before = (status.health, status.reason.clone());
            change(status);
            (before != (status.health, status.reason.clone())).then(|| status.clone())
        };
        if let Some(SourceStatus {
            health: Some(health),
            reason,
            ..
        }) = changed
        {
            self.0.changed.send_replace(());
            (self.0.on_change)(SourceState {
                source,
                health,
                reason,
            });
        }
    }
}

fn off(source: Source) -> SourceStatus {
    SourceStatus {
        source,
        wanted: false,
        has_worked: false,
        health: None,
        reason: String::new(),
        remedy: String::new(),
        detail: String::new(),
        lost: 0,
        forged: 0,
    }
}

/// Reports the health of one source.
#[derive(Clone)]
pub(crate) struct Reporter {
    board: StatusBoard,
    source: Source,
}

impl Reporter {
    /// Reports that it is configured to run; it has not reported its health yet.
    pub(crate) fn starting(&self) {
        self.board
            .update(self.source, |status| status.wanted = true);
    }

    /// Reports that it works.
    pub(crate) fn up(&self, detail: impl Into<String>) {
        self.report(SourceHealth::Up, "", "", detail.into());
    }

    /// Reports that it works with a limit.
    pub(crate) fn degraded(&self, reason: &str, remedy: &str, detail: impl Into<String>) {
        self.report(SourceHealth::Degraded, reason, remedy, detail.into());
    }

    /// Reports that it does not work. This clears the detail.
    pub(crate) fn down(&self, reason: &str, remedy: &str) {
        self.report(SourceHealth::Down, reason, remedy, String::new());
    }

    /// Returns whether it last reported that it works, with or without limits.
    pub(crate) fn works(&self) -> bool {
        self.board.works(self.source)
    }

    /// Counts a complete sweep.
    pub(crate) fn swept(&self, took: Duration, unknown: usize) {
        let counters = self.board.counters();
        counters.sweeps.add(took);
        counters.unknown.add(self.source, unknown as u64);
    }

    /// Counts this many further lost events.
    pub(crate) fn lost(&self, events: u64) {
        self.board
            .update(self.source, |status| status.lost += events);
    }

    /// Counts this many further messages that did not come from the kernel. The first one is logged.
    pub(crate) fn forged(&self, messages: u64) {
        if self.board.get(self.source).forged == 0 {
            log::warn!(
                "{}: a message did not come from the kernel and is ignored; further ones are only counted",
                self.source
            );
        }
        self.board
            .update(self.source, |status| status.forged += messages);
    }

    fn report(&self, health: SourceHealth, reason: &str, remedy: &str, detail: String) {
        self.board.update(self.source, |status| {
            status.health = Some(health);
            status.has_worked |= health != SourceHealth::Down;
            reason.clone_into(&mut status.reason);
            remedy.clone_into(&mut status.remedy);
            status.detail = detail;
        });
    }
}
