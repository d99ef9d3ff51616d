//! How many ends are told with their status, by each set of sources and with and without
//! privileges. What is told must be true, and it must be told wherever the kernel tells it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use reaper_tests::daemon::{Events, Launch, TestDaemon};
use reaper_tests::expect::{self, measured, skip};
use reaper_tests::fork_server::{CUE, ForkServer, KEEP_ZOMBIES, Kind, kill, signal};
use reaperd::testkit::conformance::kernel_before;
use rustix::process::geteuid;

use crate::test_processes::{last_thread_ends, leader_has_left};
use crate::tracker::Tracker;
use crate::{UID_NOBODY, fork_server_program, is_root, working};

/// Of each way to end, as the figures have it.
const ENDS: usize = 24;
/// Sources, and the interval of the sweep.
const SETS: [(&[&str], &str); 6] = [
    (&["auto"], "60s"),
    (&["netlink", "pidfd"], "60s"),
    (&["pidfd"], "60s"),
    (&["ebpf"], "60s"),
    (&["netlink"], "60s"),
    (&["sweep"], "50ms"),
];
/// What a process may do, and how it then ends: with a code, or by a signal behind a minus. Whose
/// word counts where the first thread left first differs between kernels.
type End = (Kind, Option<i32>);

const WAYS: [(&str, [End; 2]); 4] = [
    (
        "exits",
        [
            (Kind::Exit { code: 0 }, Some(0)),
            (Kind::Exit { code: 7 }, Some(7)),
        ],
    ),
    (
        "exits after a worker's exec",
        [
            (Kind::WorkerExecExit { code: 0 }, Some(0)),
            (Kind::WorkerExecExit { code: 7 }, Some(7)),
        ],
    ),
    (
        "kills",
        [
            (Kind::Idle { megabytes: 0 }, Some(-9)),
            (Kind::Threads { number: 3 }, Some(-9)),
        ],
    ),
    (
        "exits of the last thread",
        [(Kind::LeaderFirst, Some(7)); 2],
    ),
];

#[test]
fn the_status_of_an_end_is_told_wherever_the_kernel_tells_it() {
    each_set(geteuid().as_raw());
}

#[test]
fn the_status_of_an_end_is_told_without_privileges_too() {
    if is_root() {
        each_set(UID_NOBODY);
    } else {
        skip("not root, so the other test runs without privileges");
    }
}

/// The daemon and the processes are of this user.
fn each_set(uid: u32) {
    let mut untold = Vec::new();
    for (sources, sweep) in SETS {
        let list = sources.join(",");
        let flags = ["--sources", &list, "--sweep-interval", sweep];
        let launch = Launch::with(&flags).for_user(uid);
        let mut daemon = launch.spawn_by(|command| of_user(command, uid).spawn());
        daemon.serves();
        let is_auto = sources == ["auto"];
        let names = if is_auto {
            &["pidfd", "netlink", "ebpf"]
        } else {
            sources
        };
        let up = works_as(&daemon, uid, names);
        if up.len() < names.len() && !is_auto {
            println!("{list} does not work for uid {uid}");
            continue;
        }
        let has_events = up.iter().any(|name| ["netlink", "ebpf"].contains(name));
        let mut ends = Ends {
            events: daemon.events(),
            tracker: Tracker::default(),
            daemon,
        };
        let mut figures = Vec::new();
        for (reaping, argument) in [("reaped at once", ""), ("not reaped", KEEP_ZOMBIES)] {
            let mut program = Command::new(fork_server_program());
            of_user(program.arg(argument), uid);
            let counts = ends.of_each_way(&mut ForkServer::open(program).unwrap(), reaping);
            figures.push(format!("{reaping}: {}", counts.join(", ")));
            // A pidfd keeps the status of what was reaped since 6.15, a zombie shows that of its whole
            // process since 6.1.
            let is_kept = !argument.is_empty() && !kernel_before(6, 1);
            // An emulated machine brings events so late that they are not waited for.
            let is_late = expect::role().is_some() && kernel_before(6, 15);
            let is_certain = is_kept || has_events && !is_late || !kernel_before(6, 15);
            let is_short = |count: &String| !count.starts_with(&format!("{ENDS} of"));
            if is_certain && counts.iter().any(is_short) {
                untold.push(format!("{list}, uid {uid}, {reaping}: {counts:?}"));
            }
        }
        let user = if uid == 0 {
            "as root"
        } else {
            "without privileges"
        };
        let name = format!("exit status told, {}, {user}", sources.join(" and "));
        measured(&name, figures.join("; "));
        ends.close();
    }
    assert!(untold.is_empty(), "{untold:#?}");
}

/// Those that work. What is required here is so for our own user.
fn works_as<'names>(daemon: &TestDaemon, uid: u32, names: &[&'names str]) -> Vec<&'names str> {
    if uid == geteuid().as_raw() {
        return working(daemon, names);
    }
    let works = |name: &&&str| daemon.settled(name).is_ok();
    names.iter().filter(works).copied().collect()
}

/// Has a program start as this user.
fn of_user(command: &mut Command, uid: u32) -> &mut Command {
    if uid == geteuid().as_raw() {
        return command;
    }
    command.uid(uid).gid(uid)
}

struct Ends {
    daemon: TestDaemon,
    tracker: Tracker,
    events: Events,
}

/// Before 6.15 the connector may have the last word on a process that is reaped at once, and to it a main
/// thread that leaves first, or that a worker's exec replaces, ends like a process, with 0.
fn is_told_truly(kind: Kind) -> bool {
    let loses_main_thread = matches!(kind, Kind::WorkerExecExit { .. } | Kind::LeaderFirst);
    !loses_main_thread || !kernel_before(6, 15)
}

impl Ends {
    /// Answers for each way how many ends were told with their status.
    fn of_each_way(&mut self, processes: &mut ForkServer, reaping: &str) -> Vec<String> {
        let mut counts = Vec::new();
        for (way, kinds) in WAYS {
            let before = self.tracker.told;
            for (number, (kind, ends)) in kinds.into_iter().cycle().take(ENDS).enumerate() {
                let pid = processes.start_one(kind).unwrap();
                let id = format!("{reaping} {way} {number}");
                self.tracker.register(&self.daemon, &id, pid);
                if kind == Kind::LeaderFirst {
                    signal(pid, CUE).unwrap();
                    leader_has_left(pid);
                }
                self.tracker.doom(&id, ends.filter(|_| is_told_truly(kind)));
                match kind {
                    Kind::LeaderFirst => last_thread_ends(pid),
                    Kind::Idle { .. } | Kind::Threads { .. } => kill(pid).unwrap(),
                    _ => signal(pid, CUE).unwrap(),
                }
            }
            self.tracker.settle(&mut self.events);
            counts.push(format!("{} of {ENDS} {way}", self.tracker.told - before));
        }
        counts
    }

    fn close(self) {
        self.tracker.agree(&self.daemon);
        drop(self.events);
        self.daemon.stop();
    }
}
