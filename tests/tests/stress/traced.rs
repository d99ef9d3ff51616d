//! Processes under a debugger when they are killed. What a tracer does not wait for stays a zombie
//! for as long as the tracer likes, and no pidfd becomes readable; the process is dead all the same,
//! because none of its threads can run again. A thread in a stop of its tracer can, and lives.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::thread;

use reaper_tests::daemon::{Events, Removal, TestDaemon, has_program, program};
use reaper_tests::expect::{skip, skip_without};
use reaper_tests::fork_server::{CUE, ForkServer, Kind, kill, signal};
use reaper_tests::sys::unshare_namespaces;
use reaper_tests::wait::eventually;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::test_processes::leader_has_left;
use crate::{fork_server, is_root, line_of, working};

/// Beside the first.
const THREADS: usize = 3;
const NO_SWEEP: &str = "60s";
const QUICK_SWEEP: &str = "200ms";

/// Has a daemon of each set of sources meet a scene. Sources without an event at the moment in
/// question are given a sweep that comes soon; the others must do without.
fn each(with_an_event: &[&str], mut fixture: impl FnMut(&mut Harness)) {
    for sources in ["ebpf", "netlink", "pidfd", "sweep", "auto"] {
        let sees = sources == "auto" || with_an_event.contains(&sources);
        let sweep = if sees { NO_SWEEP } else { QUICK_SWEEP };
        let flags = ["--sources", sources, "--sweep-interval", sweep];
        let daemon = TestDaemon::start(&flags);
        let needed = match sources {
            "auto" => with_an_event,
            one => &[one],
        };
        if working(&daemon, needed).is_empty() {
            skip(format_args!("none of {needed:?} works here"));
            continue;
        }
        println!("with {sources}");
        let mut harness = Harness {
            sources,
            events: daemon.events(),
            daemon,
            fork_server: fork_server(),
            others: 0,
        };
        fixture(&mut harness);
        drop(harness.events);
        harness.daemon.stop();
    }
}

struct Harness {
    sources: &'static str,
    daemon: TestDaemon,
    events: Events,
    fork_server: ForkServer,
    others: usize,
}

impl Harness {
    fn traced(&mut self, kind: Kind) -> [u32; 2] {
        let both = self.fork_server.start(1, kind).unwrap();
        both.try_into().expect("a tracer and a process")
    }

    /// Waits for the removal and says what it was by.
    fn removed(&mut self, session: &str) -> Removal {
        let removal = self.events.removal_of(session);
        let Removal { told, .. } = &removal;
        assert_eq!(told.cause, "exited", "{}: {told:?}", self.sources);
        println!("gone by {:?}, credited to {:?}", told.evidence, told.source);
        removal
    }

    /// Others end and are removed, a sweep apart where there is one: each has looked at everybody.
    fn stands(&mut self, session: &str) {
        for _ in 0..3 {
            self.others += 1;
            let other = format!("other {}", self.others);
            let pid = self
                .fork_server
                .start_one(Kind::Idle { megabytes: 0 })
                .unwrap();
            self.daemon.register(&other, pid);
            kill(pid).unwrap();
            self.events.removal_of(&other);
        }
        assert!(self.daemon.lists(session), "{}: it lives", self.sources);
    }
}

#[test]
fn a_killed_process_is_gone_though_its_tracer_never_waits() {
    each(&["ebpf", "netlink"], |harness| {
        let [tracer, process] = harness.traced(Kind::Traced { threads: THREADS });
        harness.daemon.register("traced", process);
        kill(process).unwrap();
        harness.removed("traced");
        // The end may be seen before the threads are zombies, and these then stay.
        eventually("all threads are zombies, and none was waited for", || {
            states_of(process) == ["Z"; THREADS + 1]
        });
        kill(tracer).unwrap();
    });
}

#[test]
fn a_process_lives_while_its_traced_threads_do_though_its_first_has_left() {
    each(&["ebpf", "netlink"], |harness| {
        let [tracer, process] = harness.traced(Kind::Traced { threads: THREADS });
        harness.daemon.register("traced", process);
        signal(process, CUE).unwrap();
        leader_has_left(process);
        harness.stands("traced");
        kill(process).unwrap();
        harness.removed("traced");
        kill(tracer).unwrap();
    });
}

#[test]
fn under_gdb_at_its_prompt_a_killed_process_is_gone() {
    if !has("gdb") {
        return;
    }
    each(&["ebpf", "netlink"], |harness| {
        let kind = Kind::Threads { number: THREADS };
        let process = harness.fork_server.start_one(kind).unwrap();
        harness.daemon.register("traced", process);
        let gdb = Tracer::gdb(process);
        kill(process).unwrap();
        harness.removed("traced");
        drop(gdb);
    });
}

#[test]
fn under_gdb_a_process_lives_while_its_threads_do_though_its_first_has_left() {
    if !has("gdb") {
        return;
    }
    each(&["ebpf", "netlink"], |harness| {
        let kind = Kind::Threads { number: THREADS };
        let process = harness.fork_server.start_one(kind).unwrap();
        harness.daemon.register("traced", process);
        let mut gdb = Tracer::gdb(process);
        gdb.type_in("handle SIGUSR1 nostop noprint pass");
        gdb.type_in("continue");
        eventually("it runs under its debugger", || {
            !states_of(process).contains(&"t".into())
        });
        signal(process, CUE).unwrap();
        leader_has_left(process);
        harness.stands("traced");
        kill(process).unwrap();
        harness.removed("traced");
        drop(gdb);
    });
}

/// A thread that was killed stops once more on its way out where its tracer asks for that. Before
/// it goes on it has not ended, and its tracer may have it wait for as long as it likes.
#[test]
fn under_strace_that_is_stopped_a_killed_process_is_gone_when_strace_is() {
    if !has("strace") {
        return;
    }
    each(&["ebpf", "netlink"], |harness| {
        let kind = Kind::Threads { number: THREADS };
        let process = harness.fork_server.start_one(kind).unwrap();
        harness.daemon.register("traced", process);
        let strace = Tracer::strace(process);
        signal(strace.pid(), Signal::STOP).unwrap();
        eventually("strace is stopped", || {
            line_of(strace.pid(), "status", "State:").is_some_and(|it| it.starts_with('T'))
        });
        kill(process).unwrap();
        let on_the_way = |state: &String| ["t", "Z", "X"].contains(&state.as_str());
        eventually("no thread runs", || {
            states_of(process).iter().all(on_the_way)
        });
        let in_exit_stop = states_of(process).iter().filter(|it| *it == "t").count();
        println!("{in_exit_stop} threads in their exit stop");
        if in_exit_stop > 0 {
            harness.stands("traced");
        }
        signal(strace.pid(), Signal::CONT).unwrap();
        harness.removed("traced");
        drop(strace);
    });
}

/// The first process of a pid namespace kills all others at its end and waits until they are
/// reaped. Until then it is no zombie, and only the probe has an event for it; but no thread of it
/// can run any more, which `/proc` shows as well: the thread is exiting and has no memory.
#[test]
fn a_killed_first_process_of_a_pid_namespace_is_gone_though_it_waits_for_a_traced_one() {
    let makes_namespaces = thread::spawn(|| unshare_namespaces(true, false, false));
    if let Err(error) = makes_namespaces.join().unwrap() {
        skip(format_args!("no pid namespace can be made here: {error}"));
        return;
    }
    for threads in [0, THREADS] {
        each(&["ebpf"], |harness| {
            let [tracer, first] = harness.traced(Kind::TracedInNamespace { threads });
            harness.daemon.register("first", first);
            harness.stands("first");
            kill(first).unwrap();
            let removal = harness.removed("first");
            eventually("a thread of it waits", || {
                states_of(first).contains(&"S".into())
            });
            if let Some(exit) = removal.told.exit {
                assert_eq!(exit.signal, Some(9));
            }
            kill(tracer).unwrap();
        });
    }
}

/// Whether the program is here and may trace; where it is required, it must be here.
fn has(name: &str) -> bool {
    if !has_program(name) {
        skip_without(
            name,
            "not installed; `bash .ci/install-debuggers` does that",
        );
        return false;
    }
    // Yama, in Documentation/admin-guide/LSM/Yama.rst: only zero lets a user trace a process that
    // is no descendant.
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let may_trace = is_root() || ["", "0"].contains(&scope.trim());
    if !may_trace {
        skip("only root may trace other processes here");
    }
    may_trace
}

/// The state letter of each thread that is listed.
fn states_of(pid: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let state = |folder: fs::DirEntry| {
        let stat = fs::read_to_string(folder.path().join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        Some(fields[..1].to_owned())
    };
    threads
        .filter_map(|thread| state(thread.unwrap()))
        .collect()
}

/// A program that traces a process. Dropped, it is killed, and lets go of all.
struct Tracer {
    process: Child,
    folder: TempDir,
}

impl Tracer {
    /// At its prompt.
    fn gdb(pid: u32) -> Self {
        let pid = pid.to_string();
        let quiet = [
            "-nx",
            "-q",
            "-iex",
            "set debuginfod enabled off",
            "-p",
            &pid,
        ];
        let gdb = Self::start("gdb", &quiet);
        eventually("gdb is at its prompt", || gdb.said().ends_with("(gdb) "));
        gdb
    }

    fn strace(pid: u32) -> Self {
        let strace = Self::start(
            "strace",
            &["-f", "-q", "-o", "/dev/null", "-p", &pid.to_string()],
        );
        let tracers = || -> BTreeSet<Option<String>> {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let ids = threads.filter_map(|it| it.unwrap().file_name().to_str()?.parse().ok());
            ids.map(|id| line_of(id, "status", "TracerPid:")).collect()
        };
        let its_own = BTreeSet::from([Some(strace.pid().to_string())]);
        eventually("strace traces each thread", || tracers() == its_own);
        strace
    }

    fn start(name: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = File::create(folder.path().join("output")).unwrap();
        let process = Command::new(program(name).unwrap())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { process, folder }
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn said(&self) -> String {
        let output = fs::read(self.folder.path().join("output")).unwrap();
        String::from_utf8_lossy(&output).into_owned()
    }

    fn type_in(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.process.kill().unwrap_or_default();
        self.process.wait().map(drop).unwrap_or_default();
    }
}
