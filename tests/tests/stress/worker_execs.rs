//! Processes in which a worker thread executes a program over and over. A check during such an exec
//! sees the leader thread end and another thread take its place. However often they execute, no
//! process may be removed, and no registration refused as `process_gone`.

use std::os::unix::process::CommandExt as _;

use reaper_tests::daemon::{Events, Launch, Removal, TestDaemon};
use reaper_tests::exec_loop::{ExecLoop, ExecProgram};
use reaper_tests::expect::{self, measured, skip};
use reaper_tests::fork_server::{ForkServer, Kind};
use reaper_tests::wait::{Deadline, TIMEOUT, eventually, within};
use reaperd::client::{ClientError, Session, SourceReport};
use reaperd::testkit::clock::monotonic_ns;

use crate::{UID_NOBODY, daemon_without_pidfds, fork_server, is_root, scaled};

/// Processes whose session is renewed again and again.
const RENEWED: usize = 2;
/// Processes that take turns in one session: each registration pins a process anew.
const ALTERNATING: usize = 2;
const NO_SWEEP: &str = "60s";
const QUICK_SWEEP: &str = "20ms";
/// The descriptor limit of a daemon with hardly any descriptor for processes.
const FEW_DESCRIPTORS: u64 = 128;

#[test]
fn default_sources_do_not_take_a_worker_exec_for_a_death() {
    let daemon = TestDaemon::start(&[]);
    assert_eq!(
        Harness::of(daemon, "default sources").run(execs_with_default_sources()),
        0
    );
}

#[test]
fn one_source_alone_does_not_take_a_worker_exec_for_a_death() {
    let mut faults = 0;
    for source in ["ebpf", "netlink", "pidfd", "sweep"] {
        let sweep = if source == "sweep" {
            QUICK_SWEEP
        } else {
            NO_SWEEP
        };
        let flags = ["--sources", source, "--sweep-interval", sweep];
        let daemon = TestDaemon::start(&flags);
        if !daemon.has_source(source) {
            continue;
        }
        faults += Harness::of(daemon, &format!("{source} alone")).run(execs());
    }
    assert_eq!(faults, 0);
}

#[test]
fn without_privileges_a_worker_exec_is_not_taken_for_a_death() {
    if !is_root() {
        skip("not root; the other tests already run without privileges");
        return;
    }
    let launch = Launch::with(&["--sweep-interval", QUICK_SWEEP]).for_user(UID_NOBODY);
    let mut daemon = launch.spawn_by(|command| command.uid(UID_NOBODY).gid(UID_NOBODY).spawn());
    daemon.serves();
    assert_eq!(Harness::of(daemon, "without privileges").run(execs()), 0);
}

#[test]
fn without_pidfds_a_worker_exec_is_not_taken_for_a_death() {
    let flags = ["--sweep-interval", QUICK_SWEEP];
    let daemon = daemon_without_pidfds(&flags, 4_096);
    assert_eq!(Harness::of(daemon, "stat descriptors").run(execs()), 0);
    let daemon = daemon_without_pidfds(&flags, FEW_DESCRIPTORS);
    let mut harness = Harness::of(daemon, "pid and start time");
    let _fillers = harness.use_up_descriptors();
    assert_eq!(harness.run(execs()), 0);
}

/// Beyond the descriptor budget, the daemon identifies a process by the inode number of its pidfd
/// and opens a pidfd only during each check. Halfway through, descriptors become free, and the
/// daemon keeps a pidfd again.
#[test]
fn with_few_descriptors_a_worker_exec_is_not_taken_for_a_death() {
    let limited = format!("ulimit -n {FEW_DESCRIPTORS}; exec \"$@\"");
    let launch = Launch::with(&["--sweep-interval", QUICK_SWEEP]);
    let daemon = launch.through(&["sh", "-c", &limited, "sh"]).start();
    let mut harness = Harness::of(daemon, "few descriptors");
    let fillers = harness.use_up_descriptors();
    harness.execute(execs() / 2);
    drop(fillers);
    eventually("pidfds are kept once descriptors are free", || {
        harness
            .identities()
            .iter()
            .all(|identity| identity == "pidfd")
    });
    assert_eq!(harness.run(execs() / 2), 0);
}

/// How many execs to wait for with the default sources. An emulated machine makes a few hundred per
/// second.
fn execs_with_default_sources() -> u64 {
    match expect::role() {
        Some(_) => scaled(100_000, 500).try_into().unwrap(),
        None => execs(),
    }
}

/// How many execs to wait for with every other set of sources.
fn execs() -> u64 {
    let execs = match expect::role() {
        Some(_) => scaled(10_000, 500),
        None => scaled(1_000_000, 4_000),
    };
    execs.try_into().unwrap()
}

struct Harness {
    name: String,
    daemon: TestDaemon,
    events: Events,
    loops: Vec<ExecLoop>,
    _program: Option<ExecProgram>,
    /// Registrations that were refused as `process_gone`.
    refused: usize,
    registrations: usize,
}

impl Harness {
    fn of(daemon: TestDaemon, name: &str) -> Self {
        let program = ExecProgram::new();
        if program.is_none() {
            skip("the program that executes itself is written for x86-64");
        }
        let start = |program: &ExecProgram| {
            let count = RENEWED + ALTERNATING;
            (0..count).map(|_| program.start()).collect()
        };
        Self {
            name: name.to_owned(),
            events: daemon.events(),
            loops: program.as_ref().map(start).unwrap_or_default(),
            _program: program,
            daemon,
            refused: 0,
            registrations: 0,
        }
    }

    /// Registers idle processes until the daemon has no descriptor left to pin one with. They use
    /// these descriptors as long as they live.
    fn use_up_descriptors(&mut self) -> ForkServer {
        let mut fillers = fork_server();
        let mut number = 0;
        // Hundreds of registrations, each with a list: up to half a minute on an emulated machine.
        let what = "the daemon is out of descriptors for processes";
        within(4 * TIMEOUT, what, || {
            number += 1;
            let pid = fillers.start_one(Kind::Idle { megabytes: 0 }).unwrap();
            self.daemon.register(&format!("filler-{number}"), pid);
            let listed = self.daemon.list();
            let last = listed.iter().find(|session| session.pid == pid).unwrap();
            matches!(last.identity.as_deref(), Some("pidfd_inode" | "start_time"))
        });
        fillers
    }

    /// Registers processes over and over until they have executed `execs` more times.
    fn execute(&mut self, execs: u64) {
        let goal = self.execs() + execs;
        let mut stalled = Deadline::after(TIMEOUT);
        let mut before = 0;
        while !self.loops.is_empty() && self.execs() < goal {
            for turn in 0..RENEWED {
                self.register(&format!("renewed-{turn}"), turn);
            }
            // This releases the session's former process, so its next registration pins it anew.
            self.register("alternating", RENEWED + self.registrations % ALTERNATING);
            if self.execs() > before {
                before = self.execs();
                stalled = Deadline::after(TIMEOUT);
            }
            assert!(!stalled.has_passed(), "{}: no more execs", self.name);
        }
    }

    fn register(&mut self, id: &str, process: usize) {
        self.registrations += 1;
        match self.daemon.try_register(id, self.loops[process].pid()) {
            Ok(_token) => {}
            Err(ClientError::Problem { code, .. }) if code == "process_gone" => self.refused += 1,
            Err(error) => panic!("{}: {id}: {error}", self.name),
        }
    }

    fn execs(&mut self) -> u64 {
        self.loops.iter_mut().map(ExecLoop::execs).sum()
    }

    /// The sessions of the executing processes.
    fn sessions(&self) -> impl Iterator<Item = Session> {
        let pids: Vec<u32> = self.loops.iter().map(ExecLoop::pid).collect();
        let listed = self.daemon.list().into_iter();
        listed.filter(move |session| pids.contains(&session.pid))
    }

    fn identities(&self) -> Vec<String> {
        let sessions = self.sessions();
        sessions.filter_map(|session| session.identity).collect()
    }

    /// Runs `execs` execs, prints the figures, and returns how often a live process was taken for a
    /// dead one.
    fn run(mut self, execs: u64) -> usize {
        self.execute(execs);
        let (execs, identities) = (self.execs(), self.identities());
        let false_deaths = self.end();
        let Self {
            name,
            refused,
            registrations,
            ..
        } = &self;
        println!("{name}: {identities:?}, {registrations} registrations");
        for SourceReport {
            source,
            state,
            detail,
            ..
        } in self.daemon.sources().sources
        {
            println!("{name}: {source} is {state}: {detail}");
        }
        for removal in &false_deaths {
            println!("{name}: false death: {:?}", removal.data);
        }
        let what = format!("worker execs, {name}");
        measured(&what, execs);
        measured(&format!("{what}: false deaths"), false_deaths.len());
        measured(&format!("{what}: refused as gone"), refused);
        let faults = false_deaths.len() + refused;
        drop(self.events);
        self.daemon.stop();
        faults
    }

    /// Ends the processes and waits until all of their sessions are removed. Returns the removals
    /// that came earlier.
    fn end(&mut self) -> Vec<Removal> {
        let pids: Vec<u32> = self.loops.iter().map(ExecLoop::pid).collect();
        let mut left: Vec<String> = self.sessions().map(|session| session.session_id).collect();
        let ended_at_ns = monotonic_ns();
        self.loops.clear();
        let mut early = Vec::new();
        let mut events_read = 0;
        let what = "the removal of all ended processes";
        self.events.until(what, |arrived| {
            for event in &arrived[events_read..] {
                assert_ne!(event.frame.event, "gap", "{}", event.frame.data);
                let Some(removal) = Removal::of(event) else {
                    continue;
                };
                let is_death = ["exited", "pid_reused"].contains(&removal.data.cause.as_str());
                let is_of_loops = pids.contains(&removal.data.session.pid);
                if is_death && is_of_loops && removal.at_ns < ended_at_ns {
                    early.push(removal);
                } else if is_death {
                    left.retain(|id| id != removal.session());
                }
            }
            events_read = arrived.len();
            left.is_empty()
        });
        early
    }
}
