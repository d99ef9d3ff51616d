//! Processes that live while a thread that is not their first executes a program over and over. A
//! look that meets such an exec sees the first thread end and another one take its place. However
//! often they execute, no process may be removed, and none refused as gone.

use std::os::unix::process::CommandExt as _;

use reaper_tests::daemon::{Events, Launch, Removal, TestDaemon};
use reaper_tests::exec_loop::{ExecLoop, ExecProgram};
use reaper_tests::expect::{self, measured, skip};
use reaper_tests::fork_server::{ForkServer, Kind};
use reaper_tests::wait::{Deadline, TIMEOUT, eventually};
use reaperd::client::{ClientError, SourceReport};
use reaperd::testkit::clock::monotonic_ns;

use crate::{UID_NOBODY, daemon_without_pidfds, fork_server, is_root, scaled, working};

/// Processes with a session that is registered again and again.
const KEPT: usize = 2;
/// Processes without one, except for a moment: each registration pins anew.
const PASSED: usize = 2;
const NO_SWEEP: &str = "60s";
const QUICK_SWEEP: &str = "20ms";
/// The descriptors of a daemon that has hardly one for processes.
const FEW_DESCRIPTORS: u64 = 128;

#[test]
fn no_worker_exec_is_taken_for_an_end_by_the_usual_sources() {
    let daemon = TestDaemon::start(&[]);
    assert_eq!(
        Harness::of(daemon, "usual sources").play(wanted_of_the_usual()),
        0
    );
}

#[test]
fn no_worker_exec_is_taken_for_an_end_by_one_source_alone() {
    let mut faults = 0;
    for source in ["ebpf", "netlink", "pidfd", "sweep"] {
        let sweep = if source == "sweep" {
            QUICK_SWEEP
        } else {
            NO_SWEEP
        };
        let flags = ["--sources", source, "--sweep-interval", sweep];
        let daemon = TestDaemon::start(&flags);
        if working(&daemon, &[source]).is_empty() {
            skip(format_args!("{source} does not work here"));
            continue;
        }
        faults += Harness::of(daemon, &format!("{source} alone")).play(wanted());
    }
    assert_eq!(faults, 0);
}

#[test]
fn no_worker_exec_is_taken_for_an_end_without_privileges() {
    if !is_root() {
        skip("not root, so the other tests run without privileges");
        return;
    }
    let launch = Launch::with(&["--sweep-interval", QUICK_SWEEP]).for_user(UID_NOBODY);
    let mut daemon = launch.spawn_by(|command| command.uid(UID_NOBODY).gid(UID_NOBODY).spawn());
    daemon.serves();
    assert_eq!(Harness::of(daemon, "without privileges").play(wanted()), 0);
}

#[test]
fn no_worker_exec_is_taken_for_an_end_without_pidfds() {
    let flags = ["--sweep-interval", QUICK_SWEEP];
    let daemon = daemon_without_pidfds(&flags, 4_096);
    assert_eq!(Harness::of(daemon, "stat descriptors").play(wanted()), 0);
    let daemon = daemon_without_pidfds(&flags, FEW_DESCRIPTORS);
    let mut harness = Harness::of(daemon, "number and start time");
    let _fillers = harness.use_up_descriptors();
    assert_eq!(harness.play(wanted()), 0);
}

/// Beyond the descriptor budget a process is known by its pidfd's inode number, and each look opens
/// a pidfd for its length. Halfway there is room again, and the daemon takes a pidfd to keep.
#[test]
fn no_worker_exec_is_taken_for_an_end_where_descriptors_are_few() {
    let limited = format!("ulimit -n {FEW_DESCRIPTORS}; exec \"$@\"");
    let launch = Launch::with(&["--sweep-interval", QUICK_SWEEP]);
    let daemon = launch.through(&["sh", "-c", &limited, "sh"]).start();
    let mut harness = Harness::of(daemon, "few descriptors");
    let fillers = harness.use_up_descriptors();
    harness.execute(wanted() / 2);
    drop(fillers);
    eventually("a pidfd is taken where there is room again", || {
        harness
            .identities()
            .iter()
            .all(|identity| identity == "pidfd")
    });
    assert_eq!(harness.play(wanted() / 2), 0);
}

/// Execs with the usual sources. An emulated machine makes some hundred a second.
fn wanted_of_the_usual() -> u64 {
    match expect::role() {
        Some(_) => scaled(100_000, 500).try_into().unwrap(),
        None => wanted(),
    }
}

/// Execs with every other set of sources.
fn wanted() -> u64 {
    let wanted = match expect::role() {
        Some(_) => scaled(10_000, 500),
        None => scaled(1_000_000, 4_000),
    };
    wanted.try_into().unwrap()
}

struct Harness {
    name: String,
    daemon: TestDaemon,
    events: Events,
    loops: Vec<ExecLoop>,
    _program: Option<ExecProgram>,
    /// Registrations that found the process gone.
    refused: usize,
    registrations: usize,
}

impl Harness {
    fn of(daemon: TestDaemon, name: &str) -> Self {
        let program = ExecProgram::new();
        if program.is_none() {
            skip("the program that executes itself is written for x86-64");
        }
        let start = |program: &ExecProgram| (0..KEPT + PASSED).map(|_| program.start()).collect();
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

    /// Registers idle processes until the daemon has no descriptor left to pin one with; they hold
    /// these as long as they live.
    fn use_up_descriptors(&mut self) -> ForkServer {
        let mut fillers = fork_server();
        let mut number = 0;
        eventually("the daemon is out of descriptors for processes", || {
            number += 1;
            let pid = fillers.start_one(Kind::Idle { megabytes: 0 }).unwrap();
            self.daemon.register(&format!("filler-{number}"), pid);
            let listed = self.daemon.list();
            let last = listed.iter().find(|session| session.pid == pid).unwrap();
            matches!(last.identity.as_deref(), Some("pidfd_inode" | "start_time"))
        });
        fillers
    }

    /// Registers while the processes execute, until they have done so this often more.
    fn execute(&mut self, wanted: u64) {
        let goal = self.execs() + wanted;
        let mut stalled = Deadline::after(TIMEOUT);
        let mut before = 0;
        while !self.loops.is_empty() && self.execs() < goal {
            for turn in 0..KEPT {
                self.register(&format!("kept-{turn}"), turn);
            }
            // The session's former process is let go of, so that it is pinned anew in its turn.
            self.register("passed on", KEPT + self.registrations % PASSED);
            if self.execs() > before {
                before = self.execs();
                stalled = Deadline::after(TIMEOUT);
            }
            assert!(!stalled.has_passed(), "{}: no exec any more", self.name);
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

    /// Of the processes that execute, as far as they have a session.
    fn identities(&self) -> Vec<String> {
        let pids: Vec<u32> = self.loops.iter().map(ExecLoop::pid).collect();
        let listed = self.daemon.list().into_iter();
        let of_them = listed.filter(|session| pids.contains(&session.pid));
        of_them.filter_map(|session| session.identity).collect()
    }

    /// Executes, prints the figures, and returns how often a living process was taken for an ended
    /// one.
    fn play(mut self, wanted: u64) -> usize {
        self.execute(wanted);
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
            println!("{name}: a false death: {:?}", removal.told);
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

    /// Ends the processes and waits until each of their sessions is removed. Returns the removals that
    /// came before.
    fn end(&mut self) -> Vec<Removal> {
        let pids: Vec<u32> = self.loops.iter().map(ExecLoop::pid).collect();
        let listed = self.daemon.list().into_iter();
        let of_them = listed.filter(|session| pids.contains(&session.pid));
        let mut left: Vec<String> = of_them.map(|session| session.session_id).collect();
        let ended_at_ns = monotonic_ns();
        self.loops.drain(..).for_each(ExecLoop::end);
        let mut early = Vec::new();
        let mut looked_at = 0;
        let what = "the removal of all that were ended";
        self.events.until(what, |arrived| {
            for event in &arrived[looked_at..] {
                assert_ne!(event.frame.event, "gap", "{}", event.frame.data);
                let Some(removal) = Removal::of(event) else {
                    continue;
                };
                let is_death = ["exited", "pid_reused"].contains(&removal.told.cause.as_str());
                let is_of_them = pids.contains(&removal.told.session.pid);
                if is_death && is_of_them && removal.at_ns < ended_at_ns {
                    early.push(removal);
                } else if is_death {
                    left.retain(|id| id != removal.session());
                }
            }
            looked_at = arrived.len();
            left.is_empty()
        });
        early
    }
}
