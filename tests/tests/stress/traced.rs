//! Processes that are killed under a debugger. Until its tracer waits for it, such a process stays
//! a zombie and its pidfd does not become readable. It is dead all the same, because none of its
//! threads can run again. A thread in a ptrace stop can run again, so it is alive.

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

use crate::test_processes::wait_for_leader_exit;
use crate::{fork_server, is_root, line_of, working};

/// Threads beside the leader.
const THREADS: usize = 3;
const NO_SWEEP: &str = "60s";
const QUICK_SWEEP: &str = "200ms";

/// Runs a scenario with a daemon of each set of sources. Sources that get no event for this death
/// run with a quick sweep; the others run without one.
fn with_each_source(with_event: &[&str], mut scenario: impl FnMut(&mut Harness)) {
    for sources in ["ebpf", "netlink", "pidfd", "sweep", "auto"] {
        let has_event = sources == "auto" || with_event.contains(&sources);
        let sweep = if has_event { NO_SWEEP } else { QUICK_SWEEP };
        let flags = ["--sources", sources, "--sweep-interval", sweep];
        let daemon = TestDaemon::start(&flags);
        let needed = match sources {
            "auto" => with_event,
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
            controls: 0,
        };
        scenario(&mut harness);
        drop(harness.events);
        harness.daemon.stop();
    }
}

/// Runs a scenario with a daemon of each set of sources and a process under this debugger.
fn under(
    name: &str,
    attach: fn(u32) -> Tracer,
    mut scenario: impl FnMut(&mut Harness, u32, &mut Tracer),
) {
    if !can_trace_with(name) {
        return;
    }
    with_each_source(&["ebpf", "netlink"], |harness| {
        let kind = Kind::Threads { number: THREADS };
        let process = harness.fork_server.start_one(kind).unwrap();
        harness.daemon.register("traced", process);
        let mut debugger = attach(process);
        scenario(harness, process, &mut debugger);
    });
}

struct Harness {
    sources: &'static str,
    daemon: TestDaemon,
    events: Events,
    fork_server: ForkServer,
    controls: usize,
}

impl Harness {
    fn traced(&mut self, kind: Kind) -> [u32; 2] {
        let both = self.fork_server.start(1, kind).unwrap();
        both.try_into().expect("a tracer and a process")
    }

    /// Waits for the removal and prints its evidence and source.
    fn wait_for_removal(&mut self, session: &str) -> Removal {
        let removal = self.events.removal_of(session);
        let Removal { data: details, .. } = &removal;
        assert_eq!(details.cause, "exited", "{}: {details:?}", self.sources);
        println!(
            "evidence {:?}, source {:?}",
            details.evidence, details.source
        );
        removal
    }

    /// Checks that the session stays while other processes end and are removed. With a quick sweep,
    /// each of these removals takes a whole sweep.
    fn stays_listed(&mut self, session: &str) {
        for _ in 0..3 {
            self.controls += 1;
            let control = format!("control {}", self.controls);
            let pid = self
                .fork_server
                .start_one(Kind::Idle { megabytes: 0 })
                .unwrap();
            self.daemon.register(&control, pid);
            kill(pid).unwrap();
            self.events.removal_of(&control);
        }
        assert!(
            self.daemon.lists(session),
            "a false death with {}",
            self.sources
        );
    }

    /// Checks that the session of a traced process stays when the leader exits, and is removed when
    /// the other threads are killed.
    fn check_leader_exit(&mut self, process: u32) {
        signal(process, CUE).unwrap();
        wait_for_leader_exit(process);
        self.stays_listed("traced");
        kill(process).unwrap();
        self.wait_for_removal("traced");
    }
}

#[test]
fn a_killed_process_is_removed_though_its_tracer_never_waits() {
    with_each_source(&["ebpf", "netlink"], |harness| {
        let [tracer, process] = harness.traced(Kind::Traced { threads: THREADS });
        harness.daemon.register("traced", process);
        kill(process).unwrap();
        harness.wait_for_removal("traced");
        // The removal may come before the threads are zombies. They stay zombies.
        eventually("all threads are zombies", || {
            states_of(process) == ["Z"; THREADS + 1]
        });
        kill(tracer).unwrap();
    });
}

#[test]
fn a_process_stays_while_its_traced_threads_live_though_its_leader_has_exited() {
    with_each_source(&["ebpf", "netlink"], |harness| {
        let [tracer, process] = harness.traced(Kind::Traced { threads: THREADS });
        harness.daemon.register("traced", process);
        harness.check_leader_exit(process);
        kill(tracer).unwrap();
    });
}

#[test]
fn under_gdb_at_its_prompt_a_killed_process_is_removed() {
    under("gdb", Tracer::gdb, |harness, process, _gdb| {
        kill(process).unwrap();
        harness.wait_for_removal("traced");
    });
}

#[test]
fn under_gdb_a_process_stays_while_its_threads_live_though_its_leader_has_exited() {
    under("gdb", Tracer::gdb, |harness, process, gdb| {
        gdb.type_in("handle SIGUSR1 nostop noprint pass");
        gdb.type_in("continue");
        eventually("the process runs under gdb", || {
            !states_of(process).contains(&"t".into())
        });
        harness.check_leader_exit(process);
    });
}

/// A killed thread stops once more before it exits if its tracer requested exit stops. Until the
/// tracer continues it, the thread has not ended.
#[test]
fn under_a_stopped_strace_a_killed_process_is_removed_when_strace_continues() {
    under("strace", Tracer::strace, |harness, process, strace| {
        signal(strace.pid(), Signal::STOP).unwrap();
        eventually("strace is stopped", || {
            line_of(strace.pid(), "status", "State:").is_some_and(|it| it.starts_with('T'))
        });
        kill(process).unwrap();
        let is_exiting = |state: &String| ["t", "Z", "X"].contains(&state.as_str());
        eventually("no thread runs", || {
            states_of(process).iter().all(is_exiting)
        });
        let in_exit_stop = states_of(process).iter().filter(|it| *it == "t").count();
        println!("{in_exit_stop} threads in an exit stop");
        if in_exit_stop > 0 {
            harness.stays_listed("traced");
        }
        signal(strace.pid(), Signal::CONT).unwrap();
        harness.wait_for_removal("traced");
    });
}

/// When the init process of a pid namespace exits, it kills all other processes there and waits
/// until they are reaped. Until then it is not a zombie, and only the probe has an event for it.
/// But none of its threads can run any more, which `/proc` shows as well: the thread is exiting and
/// has no memory.
#[test]
fn a_killed_init_of_a_pid_namespace_is_removed_though_it_waits_for_a_traced_process() {
    let makes_namespaces = thread::spawn(|| unshare_namespaces(true, false, false));
    if let Err(error) = makes_namespaces.join().unwrap() {
        skip(format_args!(
            "pid namespaces cannot be created here: {error}"
        ));
        return;
    }
    for threads in [0, THREADS] {
        with_each_source(&["ebpf"], |harness| {
            let [tracer, init] = harness.traced(Kind::TracedInNamespace { threads });
            harness.daemon.register("init", init);
            harness.stays_listed("init");
            kill(init).unwrap();
            let removal = harness.wait_for_removal("init");
            eventually("a thread of it waits", || {
                states_of(init).contains(&"S".into())
            });
            if let Some(exit) = removal.data.exit {
                assert_eq!(exit.signal, Some(9));
            }
            kill(tracer).unwrap();
        });
    }
}

/// Whether the debugger is installed and may trace. Fails if it is required and not installed.
fn can_trace_with(name: &str) -> bool {
    if !has_program(name) {
        skip_without(
            name,
            "not installed; `bash .ci/install-debuggers` does that",
        );
        return false;
    }
    // Only scope 0 lets a user trace a process that is not a descendant:
    // https://www.kernel.org/doc/html/v6.12/admin-guide/LSM/Yama.html
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let may_trace = is_root() || ["", "0"].contains(&scope.trim());
    if !may_trace {
        skip("only root may trace other processes here");
    }
    may_trace
}

/// The state letters of the threads.
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

/// A running debugger; killed on drop, which detaches it from its process.
struct Tracer {
    process: Child,
    folder: TempDir,
}

impl Tracer {
    /// Attaches gdb and waits for its prompt.
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
        eventually("gdb is at its prompt", || gdb.output().ends_with("(gdb) "));
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
        let only_strace = BTreeSet::from([Some(strace.pid().to_string())]);
        eventually("strace traces each thread", || tracers() == only_strace);
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

    fn output(&self) -> String {
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
