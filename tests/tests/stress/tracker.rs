//! Bookkeeping: every session, whether its process was ended, and every removal that was reported.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use reaper_registry::Token;
use reaper_tests::daemon::{Arrived, Events, Removal, TestDaemon};

/// One session of the daemon.
struct Entry {
    token: Token,
    pid: u32,
    /// The test has begun to end its process.
    ending: bool,
    /// The exit status, where it is certain: a code, or a signal as a negative number.
    status: Option<i32>,
    removals: usize,
}

/// All sessions of one daemon.
#[derive(Default)]
pub(crate) struct Tracker {
    entries: BTreeMap<String, Entry>,
    /// Events of the stream that have been recorded.
    events_read: usize,
    /// Pids are reused in this test, so removals may have that cause.
    allows_pid_reuse: bool,
    pub(crate) refused: usize,
    pub(crate) removed: usize,
    /// Removals that carried an exit status.
    pub(crate) with_status: usize,
    /// Removals by the source they are attributed to.
    pub(crate) sources: BTreeMap<String, usize>,
}

impl Tracker {
    pub(crate) fn allowing_pid_reuse() -> Self {
        Self {
            allows_pid_reuse: true,
            ..Self::default()
        }
    }

    /// Registers a live process and adds it.
    pub(crate) fn register(&mut self, daemon: &TestDaemon, id: &str, pid: u32) {
        let token = daemon.register(id, pid);
        self.add(id, pid, token);
    }

    /// Adds a session that is already registered.
    pub(crate) fn add(&mut self, id: &str, pid: u32, token: Token) {
        let entry = Entry {
            token,
            pid,
            ending: false,
            status: None,
            removals: 0,
        };
        let before = self.entries.insert(id.to_owned(), entry);
        assert!(before.is_none(), "{id} is taken");
    }

    /// Expects the end of this session's process, which is about to be ended. Returns its pid.
    pub(crate) fn expect_end(&mut self, id: &str, status: Option<i32>) -> u32 {
        let entry = self.entries.get_mut(id).expect("it was added");
        entry.ending = true;
        entry.status = status;
        entry.pid
    }

    /// Waits until every expected removal has been reported.
    pub(crate) fn wait_for_removals(&mut self, events: &mut Events) {
        let is_missing = |entry: &Entry| entry.ending && entry.removals == 0;
        let mut missing: BTreeSet<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_missing(entry))
            .map(|(id, _)| id.clone())
            .collect();
        let waited = catch_unwind(AssertUnwindSafe(|| {
            events.until("the removal of all ended sessions", |arrived| {
                self.record_new(arrived);
                missing.retain(|id| is_missing(&self.entries[id]));
                missing.is_empty()
            });
        }));
        if let Err(panic) = waited {
            println!("missing: {missing:?}");
            resume_unwind(panic);
        }
    }

    /// Waits until the removal of this session has been reported.
    pub(crate) fn wait_for_removal_of(&mut self, events: &mut Events, id: &str) {
        events.until(&format!("the removal of {id}"), |arrived| {
            self.record_new(arrived);
            self.entries[id].removals > 0
        });
    }

    pub(crate) fn is_accepted(&self, daemon: &TestDaemon, id: &str) -> bool {
        daemon.accepts(&self.entries[id].token)
    }

    fn record_new(&mut self, arrived: &[Arrived]) {
        for event in &arrived[self.events_read..] {
            self.record(event);
        }
        self.events_read = arrived.len();
    }

    fn record(&mut self, event: &Arrived) {
        assert_ne!(event.frame.event, "gap", "{}", event.frame.data);
        let Some(removal) = Removal::of(event) else {
            return;
        };
        let (id, details) = (removal.session(), &removal.data);
        let entry = self.entries.get_mut(id).expect("it was registered");
        entry.removals += 1;
        assert!(entry.ending, "a false death of {id}: {details:?}");
        assert_eq!(entry.removals, 1, "removed twice: {details:?}");
        let is_reused = self.allows_pid_reuse && details.cause == "pid_reused";
        assert!(details.cause == "exited" || is_reused, "{details:?}");
        if let Some(exit) = &details.exit {
            let reported = exit
                .signal
                .map(|signal| -i32::from(signal))
                .or(exit.code.map(i32::from));
            assert!(
                entry.status.is_none() || entry.status == reported,
                "expected the status {:?}: {details:?}",
                entry.status
            );
            self.with_status += 1;
        }
        self.removed += 1;
        let source = details.source.clone().expect("a death has a source");
        *self.sources.entry(source).or_default() += 1;
    }

    /// Checks that the daemon lists exactly the live sessions, accepts their tokens, and accepts
    /// none of a sample of the removed ones.
    pub(crate) fn check_against(&self, daemon: &TestDaemon) {
        /// Each check opens a connection.
        const REMOVED_SAMPLE: usize = 16;
        let listed = daemon.list();
        let listed: BTreeSet<&str> = listed.iter().map(|it| it.session_id.as_str()).collect();
        let live: BTreeSet<&str> = self.live_entries().map(|(id, _)| id.as_str()).collect();
        assert_eq!(listed, live, "listed (left), live (right)");
        for (id, entry) in self.live_entries() {
            assert!(daemon.accepts(&entry.token), "{id}");
        }
        let removed = self.entries.iter().rev().filter(|(_, it)| it.ending);
        for (id, entry) in removed.take(REMOVED_SAMPLE) {
            assert!(!daemon.accepts(&entry.token), "{id} was removed");
        }
    }

    fn live_entries(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.entries.iter().filter(|(_, entry)| !entry.ending)
    }

    pub(crate) fn live(&self) -> Vec<String> {
        self.live_entries().map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn registered(&self) -> usize {
        self.entries.len()
    }

    /// How many processes have been ended, or are about to be.
    pub(crate) fn ended(&self) -> usize {
        self.entries.values().filter(|it| it.ending).count()
    }
}
