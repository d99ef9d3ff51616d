//! The books: every session, what was done to its process, and every removal that was told of.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use reaper_registry::Token;
use reaper_tests::daemon::{Arrived, Events, Removal, TestDaemon};

/// What is known of one session.
struct Account {
    token: Token,
    pid: u32,
    /// Somebody has set out to end its process.
    doomed: bool,
    /// How its process ends, where that is certain: a code, or a signal behind a minus.
    ends: Option<i32>,
    removals: usize,
}

/// All sessions of one daemon.
#[derive(Default)]
pub(crate) struct Tracker {
    accounts: BTreeMap<String, Account>,
    looked_at: usize,
    /// Numbers of the dead are given to others here, and removals may say so.
    is_of_successors: bool,
    pub(crate) refused: usize,
    pub(crate) removed: usize,
    /// Removals that told how the process ended.
    pub(crate) told: usize,
    /// By the source that is credited.
    pub(crate) sources: BTreeMap<String, usize>,
}

impl Tracker {
    pub(crate) fn of_successors() -> Self {
        Self {
            is_of_successors: true,
            ..Self::default()
        }
    }

    /// Opens an account for a process that lives.
    pub(crate) fn register(&mut self, daemon: &TestDaemon, id: &str, pid: u32) {
        let token = daemon.register(id, pid);
        self.open(id, pid, token);
    }

    pub(crate) fn open(&mut self, id: &str, pid: u32, token: Token) {
        let account = Account {
            token,
            pid,
            doomed: false,
            ends: None,
            removals: 0,
        };
        let before = self.accounts.insert(id.to_owned(), account);
        assert!(before.is_none(), "{id} is taken");
    }

    /// Its process is about to be ended, and ends like this.
    pub(crate) fn doom(&mut self, id: &str, ends: Option<i32>) -> u32 {
        let account = self.accounts.get_mut(id).expect("it has an account");
        account.doomed = true;
        account.ends = ends;
        account.pid
    }

    /// Waits until each of those who are doomed was told of.
    pub(crate) fn settle(&mut self, events: &mut Events) {
        // Whoever is missed is named, or nobody could find out why.
        let is_missed = |account: &Account| account.doomed && account.removals == 0;
        let mut missed: BTreeSet<String> = self
            .accounts
            .iter()
            .filter(|(_, account)| is_missed(account))
            .map(|(id, _)| id.clone())
            .collect();
        let settled = catch_unwind(AssertUnwindSafe(|| {
            events.until("the removal of all that died", |arrived| {
                for event in &arrived[self.looked_at..] {
                    self.enter(event);
                }
                self.looked_at = arrived.len();
                missed.retain(|id| is_missed(&self.accounts[id]));
                missed.is_empty()
            });
        }));
        if let Err(panic) = settled {
            println!("missed: {missed:?}");
            resume_unwind(panic);
        }
    }

    /// Waits until this one was told of.
    pub(crate) fn settle_one(&mut self, events: &mut Events, id: &str) {
        events.until(&format!("the removal of {id}"), |arrived| {
            for event in &arrived[self.looked_at..] {
                self.enter(event);
            }
            self.looked_at = arrived.len();
            self.accounts[id].removals > 0
        });
    }

    pub(crate) fn is_accepted(&self, daemon: &TestDaemon, id: &str) -> bool {
        daemon.accepts(&self.accounts[id].token)
    }

    fn enter(&mut self, event: &Arrived) {
        assert_ne!(event.frame.event, "gap", "{}", event.frame.data);
        let Some(removal) = Removal::of(event) else {
            return;
        };
        let (id, told) = (removal.session(), &removal.told);
        let account = self.accounts.get_mut(id).expect("it was registered");
        account.removals += 1;
        assert!(account.doomed, "a false death: {id} lives: {told:?}");
        assert_eq!(account.removals, 1, "removed twice: {told:?}");
        let is_reused = self.is_of_successors && told.cause == "pid_reused";
        assert!(told.cause == "exited" || is_reused, "{told:?}");
        if let Some(exit) = &told.exit {
            let seen = exit
                .signal
                .map(|signal| -i32::from(signal))
                .or(exit.code.map(i32::from));
            assert!(
                account.ends.is_none() || account.ends == seen,
                "it ended with {:?}: {told:?}",
                account.ends
            );
            self.told += 1;
        }
        self.removed += 1;
        let source = told.source.clone().expect("a death has a source");
        *self.sources.entry(source).or_default() += 1;
    }

    /// The daemon lists exactly those who live, knows their tokens, and none of some of the dead.
    pub(crate) fn agree(&self, daemon: &TestDaemon) {
        /// Each question is a connection of its own.
        const ASKED_OF_THE_DEAD: usize = 16;
        let living = |account: &&Account| !account.doomed;
        let expected: BTreeSet<&str> = self
            .accounts
            .iter()
            .filter(|(_, account)| living(account))
            .map(|(id, _)| id.as_str())
            .collect();
        let listed = daemon.list();
        let listed: BTreeSet<&str> = listed.iter().map(|it| it.session_id.as_str()).collect();
        assert_eq!(listed, expected, "listed (left), living (right)");
        for (id, account) in &self.accounts {
            assert!(account.doomed || daemon.accepts(&account.token), "{id}");
        }
        let dead = self.accounts.iter().rev().filter(|(_, it)| it.doomed);
        for (id, account) in dead.take(ASKED_OF_THE_DEAD) {
            assert!(!daemon.accepts(&account.token), "{id} is dead");
        }
    }

    pub(crate) fn living(&self) -> Vec<String> {
        let living = self.accounts.iter().filter(|(_, account)| !account.doomed);
        living.map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn registered(&self) -> usize {
        self.accounts.len()
    }

    pub(crate) fn doomed(&self) -> usize {
        self.accounts.values().filter(|it| it.doomed).count()
    }
}
