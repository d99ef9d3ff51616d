//! The programs of docs/examples, which start daemons themselves.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use reaper_tests::daemon::{Requests, has_program, private_folder, reaperd};
use reaper_tests::expect::skip_without;
use reaper_tests::test_process::{TestProcess, stat_field};
use reaper_tests::wait::{TIMEOUT, eventually, eventually_some};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::file;

/// One of the programs.
#[derive(Clone, Copy)]
struct Program {
    language: &'static str,
    /// The interpreter, and what else it runs.
    needs: &'static [&'static str],
    name: &'static str,
}

const JAVASCRIPT: Program = Program {
    language: "node",
    needs: &["node"],
    name: "session.mjs",
};
const PYTHON: Program = Program {
    language: "python",
    needs: &["python3"],
    name: "session.py",
};
const SHELL: Program = Program {
    language: "curl",
    needs: &["bash", "curl"],
    name: "session.sh",
};

/// A daemon that an example has started in this folder. It ends with the test.
struct Daemon(Requests);

impl Daemon {
    fn in_folder(folder: &Path) -> Self {
        Self(Requests::to(&folder.join("reaperd/reaperd.sock")))
    }

    fn worker(&self) -> Option<Pid> {
        let limit = Duration::from_secs(5);
        let health: Value = self.0.get_within(limit, "/v1/health").ok()?;
        Pid::from_raw(i32::try_from(health["pid"].as_i64()?).ok()?)
    }

    /// The parent of the worker.
    fn monitor(&self) -> Option<Pid> {
        let worker = self.worker()?.as_raw_nonzero().get().cast_unsigned();
        Pid::from_raw(stat_field(worker, 4).ok()?.parse().ok()?)
    }

    fn pids_of_sessions(&self) -> Vec<u32> {
        self.0.list().iter().map(|it| it.pid).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(monitor) = self.monitor() {
            kill_process(monitor, Signal::TERM).unwrap_or_default();
        }
    }
}

/// A running example. Dropped, it is killed.
struct Example {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Example {
    /// Starts it; `None` if it cannot run here, with the reason printed.
    fn start(of: Program, folder: &Path) -> Option<Self> {
        if let Some(missing) = of.needs.iter().find(|it| !has_program(it)) {
            skip_without(of.language, format_args!("{missing} is not installed"));
            return None;
        }
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", reaperd().parent().unwrap().display());
        let mut child = Command::new(of.needs[0])
            .arg(file("../docs/examples").join(of.name))
            .env("PATH", path)
            .env("XDG_RUNTIME_DIR", folder)
            .env("HOME", folder)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("REAPERD_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Some(Self {
            child,
            lines,
            seen: Vec::new(),
        })
    }

    /// Waits until it prints a line with all of this.
    fn prints(&mut self, parts: &[&str]) {
        loop {
            let line = self.lines.recv_timeout(TIMEOUT);
            let line = line.unwrap_or_else(|error| panic!("{parts:?}: {error}: {:#?}", self.seen));
            let is_it = parts.iter().all(|part| line.contains(part));
            self.seen.push(line);
            if is_it {
                return;
            }
        }
    }

    /// How many of the lines up to now have all of this.
    fn count(&self, parts: &[&str]) -> usize {
        let is_it = |line: &&String| parts.iter().all(|part| line.contains(part));
        self.seen.iter().filter(is_it).count()
    }

    /// Ends it, and returns whether it exits with success.
    fn ends(&mut self) -> bool {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually_some("it ends", || self.child.try_wait().unwrap()).success()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// Registers a session of a process that ends at once: what the example prints about both.
fn begins_and_ends(daemon: &Daemon, id: &str) {
    let process = TestProcess::start();
    // A worker that has just been killed may have taken the request with it.
    eventually("it is registered", || {
        daemon.0.try_register(id, process.pid()).is_ok()
    });
}

fn runs(example: Program) {
    let folder = private_folder();
    let Some(mut running) = Example::start(example, folder.path()) else {
        return;
    };
    running.prints(&["registered: "]);
    let daemon = Daemon::in_folder(folder.path());
    let pid = running.child.id();
    assert_eq!(daemon.pids_of_sessions(), [pid]);
    assert!(running.seen.last().unwrap().contains(&pid.to_string()));
    begins_and_ends(&daemon, "first");
    running.prints(&["first", "exited"]);

    // The history outlives a worker: what happened before the example is back is shown, and nothing twice.
    kill_process(daemon.worker().unwrap(), Signal::KILL).unwrap();
    begins_and_ends(&daemon, "while-away");
    running.prints(&["following again"]);
    running.prints(&["while-away", "exited"]);
    assert_eq!(running.count(&["gap"]), 0, "{:#?}", running.seen);
    assert_eq!(
        running.count(&["first", "exited"]),
        1,
        "{:#?}",
        running.seen
    );
    assert_eq!(running.count(&["registered: "]), 1, "{:#?}", running.seen);

    // After an orderly stop the example starts a new one, which has neither history nor sessions.
    let monitor = daemon.monitor().unwrap();
    kill_process(monitor, Signal::TERM).unwrap();
    running.prints(&["following again"]);
    running.prints(&["gap"]);
    running.prints(&["registered: "]);
    assert_ne!(daemon.monitor().unwrap(), monitor);
    assert_eq!(daemon.pids_of_sessions(), [pid]);
    begins_and_ends(&daemon, "last");
    running.prints(&["last", "exited"]);

    assert!(running.ends(), "{:#?}", running.seen);
    assert_eq!(daemon.pids_of_sessions(), [0; 0]);
}

#[test]
fn the_example_in_javascript_runs() {
    runs(JAVASCRIPT);
}

#[test]
fn the_example_in_python_runs() {
    runs(PYTHON);
}

#[test]
fn the_example_for_a_shell_runs() {
    runs(SHELL);
}

#[test]
fn examples_that_start_at_the_same_time_share_one_daemon() {
    let folder = private_folder();
    let start = |of| Example::start(of, folder.path());
    let all = [JAVASCRIPT, PYTHON, SHELL];
    let mut running: Vec<_> = all.into_iter().filter_map(start).collect();
    for example in &mut running {
        example.prints(&["registered: "]);
    }
    let daemon = Daemon::in_folder(folder.path());
    let mut pids: Vec<_> = running.iter().map(|it| it.child.id()).collect();
    pids.sort_unstable();
    let mut listed = daemon.pids_of_sessions();
    listed.sort_unstable();
    assert_eq!(listed, pids);
    // One that is killed cannot remove its session.
    for example in running {
        drop(example);
    }
    eventually("their sessions are gone", || daemon.0.list().is_empty());
}
