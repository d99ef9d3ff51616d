//! How many deaths are reported with their exit status, by each set of sources, with and without
//! privileges. A reported status must be right, and it must be reported wherever the kernel shows
//! it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use reaper_tests::daemon::{Events, Launch, TestDaemon};
use reaper_tests::expect::{self, measured, skip};
use reaper_tests::fork_server::{CUE, ForkServer, KEEP_ZOMBIES, Kind, kill, signal};
use reaperd::testkit::conformance::kernel_before;
use rustix::process::geteuid;

use crate::test_processes::{end_last_thread, wait_for_leader_exit};
use crate::tracker::Tracker;
use crate::{UID_NOBODY, fork_server_program, is_root, working};

/// Deaths of each kind.
const DEATHS: usize = 24;
/// The sources and the sweep interval.
const SETS: [(&[&str], &str); 6] = [
    (&["auto"], "60s"),
    (&["netlink", "pidfd"], "60s"),
    (&["pidfd"], "60s"),
    (&["ebpf"], "60s"),
    (&["netlink"], "60s"),
    (&["sweep"], "50ms"),
];
/// A kind of process and its exit status: a code, or a signal as a negative number.
type Case = (Kind, Option<i32>);

const WAYS: [(&str, [Case; 2]); 4] = [
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
fn the_exit_status_is_reported_wherever_the_kernel_shows_it() {
    each_set(geteuid().as_raw());
}

#[test]
fn the_exit_status_is_reported_without_privileges_too() {
    if is_root() {
        each_set(UID_NOBODY);
    } else {
        skip("not root; the other test already runs without privileges");
    }
}

/// Runs the daemon and the processes as this user.
fn each_set(uid: u32) {
    let mut failures = Vec::new();
    for (sources, sweep) in SETS {
        let list = sources.join(",");
        let flags = ["--sources", &list, "--sweep-interval", sweep];
        let launch = Launch::with(&flags).for_user(uid);
        let mut daemon = launch.spawn_by(|command| as_user(command, uid).spawn());
        daemon.serves();
        let is_auto = sources == ["auto"];
        let names = if is_auto {
            &["pidfd", "netlink", "ebpf"]
        } else {
            sources
        };
        let up = working_as(&daemon, uid, names);
        if up.len() < names.len() && !is_auto {
            println!("{list} does not work for uid {uid}");
            continue;
        }
        let has_events = up.iter().any(|name| ["netlink", "ebpf"].contains(name));
        let mut run = StatusRun {
            events: daemon.events(),
            tracker: Tracker::default(),
            daemon,
        };
        let mut figures = Vec::new();
        for (reaping, argument) in [("reaped at once", ""), ("not reaped", KEEP_ZOMBIES)] {
            let mut program = Command::new(fork_server_program());
            as_user(program.arg(argument), uid);
            let counts = run.count_each_way(&mut ForkServer::open(program).unwrap(), reaping);
            figures.push(format!("{reaping}: {}", counts.join(", ")));
            // Since 6.15 a pidfd keeps the status of a reaped process; since 6.1 a zombie shows the
            // status of the whole process.
            let is_kept = !argument.is_empty() && !kernel_before(6, 1);
            // On an emulated machine, events arrive so late that the daemon does not wait for them.
            let is_late = expect::role().is_some() && kernel_before(6, 15);
            let is_certain = is_kept || has_events && !is_late || !kernel_before(6, 15);
            let is_short = |count: &String| !count.starts_with(&format!("{DEATHS} of"));
            if is_certain && counts.iter().any(is_short) {
                failures.push(format!("{list}, uid {uid}, {reaping}: {counts:?}"));
            }
        }
        let user = if uid == 0 {
            "as root"
        } else {
            "without privileges"
        };
        let name = format!("exit status reported, {}, {user}", sources.join(" and "));
        measured(&name, figures.join("; "));
        run.close();
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Returns the sources that work. `REAPER_REQUIRE` applies only to the test's own user.
fn working_as<'names>(daemon: &TestDaemon, uid: u32, names: &[&'names str]) -> Vec<&'names str> {
    if uid == geteuid().as_raw() {
        return working(daemon, names);
    }
    let works = |name: &&&str| daemon.settled(name).is_ok();
    names.iter().filter(works).copied().collect()
}

/// Makes a program start as this user.
fn as_user(command: &mut Command, uid: u32) -> &mut Command {
    if uid == geteuid().as_raw() {
        return command;
    }
    command.uid(uid).gid(uid)
}

struct StatusRun {
    daemon: TestDaemon,
    tracker: Tracker,
    events: Events,
}

/// Whether the reported status is right. Before 6.15, the connector may be the only source of the
/// status of a process that is reaped at once. It reports a leader thread that exits first, or that
/// a worker's exec replaces, like a process that exits with 0.
fn status_is_exact(kind: Kind) -> bool {
    let loses_main_thread = matches!(kind, Kind::WorkerExecExit { .. } | Kind::LeaderFirst);
    !loses_main_thread || !kernel_before(6, 15)
}

impl StatusRun {
    /// Returns for each way how many deaths were reported with their exit status.
    fn count_each_way(&mut self, processes: &mut ForkServer, reaping: &str) -> Vec<String> {
        let mut counts = Vec::new();
        for (way, kinds) in WAYS {
            let before = self.tracker.with_status;
            for (number, (kind, status)) in kinds.into_iter().cycle().take(DEATHS).enumerate() {
                let pid = processes.start_one(kind).unwrap();
                let id = format!("{reaping} {way} {number}");
                self.tracker.register(&self.daemon, &id, pid);
                if kind == Kind::LeaderFirst {
                    signal(pid, CUE).unwrap();
                    wait_for_leader_exit(pid);
                }
                self.tracker
                    .expect_end(&id, status.filter(|_| status_is_exact(kind)));
                match kind {
                    Kind::LeaderFirst => end_last_thread(pid),
                    Kind::Idle { .. } | Kind::Threads { .. } => kill(pid).unwrap(),
                    _ => signal(pid, CUE).unwrap(),
                }
            }
            self.tracker.wait_for_removals(&mut self.events);
            let reported = self.tracker.with_status - before;
            counts.push(format!("{reported} of {DEATHS} {way}"));
        }
        counts
    }

    fn close(self) {
        self.tracker.check_against(&self.daemon);
        drop(self.events);
        self.daemon.stop();
    }
}
