//! A reaper with chosen sources whose hints are at a test's mercy, and what every test asks of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reaper_tests::daemon::reaperd;
use reaper_tests::expect;
use reaper_tests::wait::{eventually, within};
use reaperd::registry::{Registry, Removal, SessionId, Token, TokenKey};
use reaperd::testkit::clock;
use reaperd::testkit::fault_injection::{Faults, Plan};
use reaperd::testkit::registry_of;
use reaperd::testkit::test_process::{Kind, TestProcess};
use reaperd::{Pid, Random as _, Reaper, Registration, Source, SourceStatus, Sources};
use tokio::runtime::Runtime;

use crate::record::{HookCalls, Record};

/// Room for everything that a test tells, so that nothing leaves the log unread.
const EVENTS: usize = 65_536;
/// A sweep that no test waits for.
pub(crate) const NO_SWEEP: Duration = Duration::from_mins(5);

/// Held while connector sockets and probes of this process come and go, by tests that look for their
/// own ones among the descriptors.
pub(crate) fn descriptors() -> MutexGuard<'static, ()> {
    static COMING_AND_GOING: Mutex<()> = Mutex::new(());
    // A test that failed meanwhile leaves nothing behind it.
    COMING_AND_GOING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Where chance comes from.
pub(crate) fn seed() -> u64 {
    const USUALLY: u64 = 20_260;
    let seed = std::env::var("REAPER_SEED").map_or(USUALLY, |seed| seed.parse().unwrap());
    // libtest shows it if the test fails.
    println!("REAPER_SEED={seed}");
    seed
}

pub(crate) struct Harness {
    pub(crate) reaper: Reaper,
    pub(crate) faults: Faults,
    /// Those that work here.
    pub(crate) sources: Vec<Source>,
    record: Mutex<Record>,
    hooks: HookCalls,
    _runtime: Runtime,
}

impl Harness {
    /// `None`, with the reason printed, where these sources do not work and need not. Several are
    /// whatever works here.
    pub(crate) fn open(sources: &[Source], sweep_interval: Duration) -> Option<Self> {
        let runtime = runtime();
        let faults = Faults::new(seed());
        let hooks = HookCalls::default();
        let registry = hooks
            .listening(Registry::builder(TokenKey::new([7; 16])))
            .event_capacity(EVENTS);
        let builder = Reaper::builder(registry)
            .sources(Sources::only(sources.iter().copied()))
            .sweep_interval(sweep_interval);
        let _ours = descriptors();
        let reaper = runtime.block_on(async {
            let reaper = faults.reaper(builder).start().await;
            reaper.settled().await;
            reaper
        });
        let mut reports = reaper.status();
        reports.retain(|report| sources.contains(&report.source));
        let works = |status: &&SourceStatus| expect::source_works(status);
        let working: Vec<_> = reports.iter().filter(works).map(|one| one.source).collect();
        let enough = working.len() == sources.len() || (sources.len() > 1 && !working.is_empty());
        enough.then(|| Self {
            record: Mutex::new(Record::of(registry_of(&reaper))),
            reaper,
            faults,
            sources: working,
            hooks,
            _runtime: runtime,
        })
    }

    /// This befalls the hints of all its sources.
    pub(crate) fn plan(&self, plan: Plan) {
        for source in &self.sources {
            self.faults.plan(*source, plan);
        }
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    pub(crate) fn test_process(kind: Kind) -> TestProcess {
        TestProcess::spawn(reaperd(), kind).unwrap()
    }

    /// Registers this process, in place of whoever has had the id.
    pub(crate) fn register(&self, id: &str, pid: Pid) -> SessionId {
        let id = SessionId::new(id);
        let registration = Registration::new(id.clone(), Token::random().unwrap(), pid);
        self.reaper.register(registration).unwrap();
        id
    }

    pub(crate) fn lists(&self, id: &SessionId) -> bool {
        self.reaper.session(id).is_some()
    }

    /// Waits until none of these is listed.
    pub(crate) fn gone<'a>(&self, ids: impl IntoIterator<Item = &'a SessionId>) {
        for id in ids {
            eventually(&format!("{id} is gone"), || !self.lists(id));
        }
    }

    /// How this one, which must have gone for its death, and but once, was found.
    pub(crate) fn found_by(&self, id: &SessionId) -> Source {
        let removals = self.record().removals_of(id);
        let [(_, Removal::Died(death))] = &removals[..] else {
            panic!("{id}: {removals:?}")
        };
        death.source
    }

    /// Waits until two whole sweeps have begun and ended from now on.
    pub(crate) fn two_sweeps(&self) {
        for _ in 0..2 {
            let now = clock::now().boot;
            eventually("a sweep", || {
                self.reaper.swept_at().is_some_and(|began| began >= now)
            });
        }
    }

    pub(crate) fn status(&self, source: Source) -> SourceStatus {
        let all = self.reaper.status();
        all.into_iter().find(|one| one.source == source).unwrap()
    }

    /// Kills one after another until a death is found by this source: what was asked for just after
    /// its start may come first for some of them.
    pub(crate) fn finds_deaths_again(&self, source: Source) {
        within(Duration::from_secs(20), "it finds a death again", || {
            let mut test_process = Self::test_process(Kind::Sleep);
            let name = format!("try-{}", self.record().last());
            let id = self.register(&name, test_process.pid());
            test_process.kill().unwrap();
            self.gone([&id]);
            self.found_by(&id) == source
        });
    }

    /// Nothing that was told contradicts itself.
    pub(crate) fn close(self) {
        self.record().is_one_true_story(&self.hooks);
        let registry = registry_of(&self.reaper);
        assert_eq!((registry.hook_panics(), registry.hooks_lost()), (0, 0));
        // Each entry lets go of its process, once.
        let processes: std::collections::BTreeSet<_> =
            registry.list().iter().map(|one| one.process.id).collect();
        assert_eq!(self.reaper.processes(), processes.len());
    }
}
