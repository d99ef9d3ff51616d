//! The health of each source: written by the sources, read by whoever asks.
//!
//! A source is believed to work only while it says so itself; nothing here infers it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reaper_registry::{Source, SourceHealth, SourceState};
use tokio::sync::watch;

/// One source as it stands now.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    pub source: Source,
    /// Whether it was asked to run.
    pub wanted: bool,
    /// Whether it has worked at any time: one that never did is not missed where others do.
    pub has_worked: bool,
    /// What it last said of itself; `None` until it has said something.
    pub health: Option<SourceHealth>,
    /// Why it is not up, in a sentence without a full stop; empty when it is.
    pub reason: String,
    /// The one thing that would mend it; empty when there is nothing to mend.
    pub remedy: String,
    /// How it works: filter, buffer, descriptors.
    pub detail: String,
    /// Events that are known to have been lost.
    pub lost: u64,
}

impl SourceStatus {
    /// The name of the state in JSON and on screen.
    pub fn state(&self) -> &'static str {
        match self.health {
            Some(health) => health.name(),
            None if self.wanted => "starting",
            None => "off",
        }
    }

    /// Whether it delivers, if with limits.
    pub fn works(&self) -> bool {
        matches!(self.health, Some(SourceHealth::Up | SourceHealth::Degraded))
    }
}

type OnChange = Box<dyn Fn(SourceState) + Send + Sync>;

/// The board itself; clones share it.
#[derive(Clone)]
pub struct StatusBoard(Arc<Shared>);

struct Shared {
    sources: Mutex<BTreeMap<Source, SourceStatus>>,
    on_change: OnChange,
    changed: watch::Sender<()>,
    loop_restarts: AtomicU64,
}

impl StatusBoard {
    /// A board on which nothing runs; `on_change` is told of each change of health.
    pub fn new(on_change: impl Fn(SourceState) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            sources: Mutex::default(),
            on_change: Box::new(on_change),
            changed: watch::Sender::new(()),
            loop_restarts: AtomicU64::new(0),
        }))
    }

    /// The reporting end for one source.
    pub fn reporter(&self, source: Source) -> Reporter {
        Reporter {
            board: self.clone(),
            source,
        }
    }

    /// The source as it stands.
    pub fn get(&self, source: Source) -> SourceStatus {
        self.sources()
            .get(&source)
            .cloned()
            .unwrap_or_else(|| off(source))
    }

    /// All of these, in this order.
    pub fn all(&self, sources: &[Source]) -> Vec<SourceStatus> {
        sources.iter().map(|source| self.get(*source)).collect()
    }

    /// Whether the source works, if with limits.
    pub fn works(&self, source: Source) -> bool {
        // Asked for each request and each death: no copy of the words.
        self.sources().get(&source).is_some_and(SourceStatus::works)
    }

    /// Waits until the source has said for the first time how it is. Cancel-safe.
    pub async fn first_report(&self, source: Source) -> SourceStatus {
        let mut changes = self.0.changed.subscribe();
        loop {
            let status = self.get(source);
            // The sender lives as long as `self`, so an error cannot come; if it did, this is all
            // that will ever be known.
            if status.health.is_some() || changes.changed().await.is_err() {
                return status;
            }
        }
    }

    /// How often the loop that removes dead processes panicked and was started again.
    pub fn loop_restarts(&self) -> u64 {
        self.0.loop_restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn count_loop_restart(&self) {
        self.0.loop_restarts.fetch_add(1, Ordering::Relaxed);
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<Source, SourceStatus>> {
        self.0
            .sources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, source: Source, change: impl FnOnce(&mut SourceStatus)) {
        let news = {
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
        }) = news
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
    }
}

/// How one source tells of itself.
#[derive(Clone)]
pub struct Reporter {
    board: StatusBoard,
    source: Source,
}

impl Reporter {
    /// It was asked to run and has not said anything yet.
    pub fn starting(&self) {
        self.board
            .update(self.source, |status| status.wanted = true);
    }

    /// It works as intended.
    pub fn up(&self, detail: impl Into<String>) {
        self.report(SourceHealth::Up, "", "", Some(detail.into()));
    }

    /// It works, with a limit.
    pub fn degraded(&self, reason: &str, remedy: &str, detail: impl Into<String>) {
        self.report(SourceHealth::Degraded, reason, remedy, Some(detail.into()));
    }

    /// It does not work. What it said of how it works is void.
    pub fn down(&self, reason: &str, remedy: &str) {
        self.report(SourceHealth::Down, reason, remedy, Some(String::new()));
    }

    /// Whether it last said that it works, if with limits.
    pub fn works(&self) -> bool {
        self.board.works(self.source)
    }

    /// It lost this many events more.
    pub fn lost(&self, events: u64) {
        self.board
            .update(self.source, |status| status.lost += events);
    }

    fn report(&self, health: SourceHealth, reason: &str, remedy: &str, detail: Option<String>) {
        self.board.update(self.source, |status| {
            status.health = Some(health);
            status.has_worked |= health != SourceHealth::Down;
            reason.clone_into(&mut status.reason);
            remedy.clone_into(&mut status.remedy);
            if let Some(detail) = detail {
                status.detail = detail;
            }
        });
    }
}
