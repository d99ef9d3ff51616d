//! A reaper with chosen sources and injected faults, and the steps and checks common to all tests.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reaper_tests::daemon::reaperd;
use reaper_tests::expect;
use reaper_tests::wait::{eventually, within};
use reaperd::registry::{Registry, Removal, SessionId, Token, TokenKey};
use reaperd::testkit::clock;
use reaperd::testkit::fault_injection::{Faults, Plan};
use reaperd::testkit::test_process::{Kind, TestProcess};
use reaperd::{Pid, Random as _, Reaper, Registration, Source, SourceStatus, Sources};
use tokio::runtime::Runtime;

use crate::record::{HookCalls, Record};

/// Large enough for all events of a test, so that none leaves the log unread.
const EVENTS: usize = 65_536;
/// So long that no sweep runs during a test.
pub(crate) const NO_SWEEP: Duration = Duration::from_mins(5);

/// Locks the set of connector sockets and probes of this process. A test that identifies its own
/// ones among the open descriptors needs it, and so does one that opens or closes some.
pub(crate) fn lock_descriptors() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    // A failed test closes its descriptors, so a poisoned lock is no problem.
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The seed of the faults' random numbers.
pub(crate) fn seed() -> u64 {
    const DEFAULT: u64 = 20_260;
    let seed = std::env::var("REAPER_SEED").map_or(DEFAULT, |seed| seed.parse().unwrap());
    // libtest shows this if the test fails.
    println!("REAPER_SEED={seed}");
    seed
}

pub(crate) struct Harness {
    pub(crate) reaper: Reaper,
    pub(crate) faults: Faults,
    /// The sources that work here.
    pub(crate) sources: Vec<Source>,
    record: Mutex<Record>,
    hooks: HookCalls,
    _runtime: Runtime,
}

impl Harness {
    /// Starts a reaper. Returns `None` and prints the reason if the source does not work here and
    /// is not required. Of several sources, one that works is enough.
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
        let _lock = lock_descriptors();
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
            record: Mutex::new(Record::of(reaper.events())),
            reaper,
            faults,
            sources: working,
            hooks,
            _runtime: runtime,
        })
    }

    /// Sets the faults of all sources.
    pub(crate) fn plan(&self, plan: Plan) {
        for source in &self.sources {
            self.faults.plan(*source, plan);
        }
    }

    /// Loses all hints of this source.
    pub(crate) fn mute(&self, source: Source) {
        let mute = true;
        let plan = Plan {
            mute,
            ..Plan::default()
        };
        self.faults.plan(source, plan);
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    pub(crate) fn test_process(kind: Kind) -> TestProcess {
        TestProcess::spawn(reaperd(), kind).unwrap()
    }

    /// Registers this process. An earlier session with this id is replaced.
    pub(crate) fn register(&self, id: &str, pid: Pid) -> SessionId {
        let id = SessionId::new(id);
        let registration = Registration::new(id.clone(), Token::random().unwrap(), pid);
        self.reaper.register(registration).unwrap();
        id
    }

    /// Starts a process and registers it.
    pub(crate) fn start_registered(&self, kind: Kind, id: &str) -> (TestProcess, SessionId) {
        let test_process = Self::test_process(kind);
        let id = self.register(id, test_process.pid());
        (test_process, id)
    }

    pub(crate) fn lists(&self, id: &SessionId) -> bool {
        let own = rustix::process::geteuid().as_raw();
        self.reaper.session(own, id).is_some()
    }

    /// Waits until none of these sessions is listed.
    pub(crate) fn wait_until_gone<'a>(&self, ids: impl IntoIterator<Item = &'a SessionId>) {
        for id in ids {
            eventually(&format!("{id} is gone"), || !self.lists(id));
        }
    }

    /// Returns the source that found the death of this session's process. Fails unless that death
    /// is its only removal.
    pub(crate) fn found_by(&self, id: &SessionId) -> Source {
        let removals = self.record().removals_of(id);
        let [(_, Removal::Died(death))] = &removals[..] else {
            panic!("{id}: {removals:?}")
        };
        death.source
    }

    /// Waits until two whole sweeps have started and finished.
    pub(crate) fn two_sweeps(&self) {
        for _ in 0..2 {
            let now = clock::now().boot;
            eventually("a sweep", || {
                self.reaper.swept_at().is_some_and(|start| start >= now)
            });
        }
    }

    pub(crate) fn status(&self, source: Source) -> SourceStatus {
        let all = self.reaper.status();
        all.into_iter().find(|one| one.source == source).unwrap()
    }

    /// Kills one process after another until this source finds a death. Just after a source has
    /// started, the sweep that its start requests may find some deaths first.
    pub(crate) fn wait_until_finds_deaths(&self, source: Source) {
        let what = format!("{source} finds a death");
        within(Duration::from_secs(20), &what, || {
            let name = format!("try-{}", self.record().last());
            let (mut test_process, id) = self.start_registered(Kind::Sleep, &name);
            test_process.kill().unwrap();
            self.wait_until_gone([&id]);
            self.found_by(&id) == source
        });
    }

    /// Checks that events, hooks and state agree.
    pub(crate) fn close(self) {
        self.record().check_against(&self.hooks);
        let reaper = &self.reaper;
        assert_eq!((reaper.hook_panics(), reaper.hooks_lost()), (0, 0));
        // Each removed session released its process once.
        let processes: std::collections::BTreeSet<_> =
            reaper.sessions().iter().map(|one| one.process.id).collect();
        assert_eq!(self.reaper.processes(), processes.len());
    }
}
