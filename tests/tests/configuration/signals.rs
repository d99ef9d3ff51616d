//! What each signal does to the daemon, and how it ends.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::thread;
use std::time::Duration;

use reaper_tests::daemon::children_of;
use reaper_tests::expect::root_with;
use reaper_tests::wait::{eventually, throughout, within};
use reaperd::testkit::clock::Deadline;
use rustix::process::{Pid, kill_process};

use super::*;

/// Exit code of an end at once.
const AT_ONCE: i32 = 131;
/// How many processes pid 1 inherits in a test.
const ORPHANS: usize = 20;
/// An end in order waits for connections for 1.5 s.
const SOONER: Duration = Duration::from_millis(1_300);
const WITH_AND_WITHOUT_MONITOR: [&[&str]; 2] = [&[], &["--no-monitor"]];

/// A program that started the tests in the background may have had the interrupt ignored.
fn launch(flags: &[&str]) -> Launch {
    let launch = Launch::with(&[&["--sources", "pidfd"], flags].concat());
    launch.through(&["env", "--default-signal=INT"])
}

/// A connection that the end in order waits for: its request is not complete.
fn unfinished_request(daemon: &TestDaemon) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let head = "POST /v1/sessions/register HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let used = || {
        let limits: Value = daemon.get("/v1/limits").unwrap();
        limits["limits"]["requests"]["used"].as_u64().unwrap()
    };
    // The question itself is one.
    eventually("the request has begun", || used() == 2);
    stream
}

#[test]
fn a_hangup_never_ends_the_daemon_not_even_at_its_start() {
    for flags in WITH_AND_WITHOUT_MONITOR {
        let mut sent = 0;
        for _ in 0..5 {
            let mut daemon = launch(flags).spawn();
            let deadline = Deadline::after(Duration::from_secs(10));
            // The program handles it from its first statements on; before, it is not this program yet.
            eventually("the program runs", || is_running(daemon.started()));
            while !daemon.socket().exists() && !deadline.has_passed() {
                daemon.signal(Signal::HUP);
                sent += 1;
                assert_eq!(daemon.ended(), None, "{}", daemon.log());
            }
            daemon.serves();
            daemon.signal(Signal::HUP);
            daemon.signal_worker(Signal::HUP);
            eventually("it is read", || {
                daemon.log().contains("configuration reloaded")
            });
            daemon.stop();
        }
        assert!(sent > 100, "{sent} signals before the socket");
    }
}

/// Whether the process ignores or catches SIGHUP: `SigIgn`, `SigCgt` or, in the monitor, `SigBlk`.
fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().any(|line| {
        let mask = ["SigIgn:", "SigCgt:", "SigBlk:"]
            .iter()
            .find_map(|name| line.strip_prefix(name));
        mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 1 != 0)
    })
}

#[test]
fn an_end_in_order_has_a_line_and_an_event() {
    for flags in WITH_AND_WITHOUT_MONITOR {
        for (signal, line) in [
            (Signal::TERM, "SIGTERM: stopping"),
            (Signal::INT, "SIGINT: stopping"),
        ] {
            let mut daemon = launch(flags).start();
            let events = daemon.events();
            daemon.signal(signal);
            assert!(events.end_with_shutdown());
            let status = daemon.wait();
            let log = daemon.log();
            assert!(status.success(), "{status:?}\n{log}");
            assert_eq!(log.matches(line).count(), 1, "{log}");
            assert!(log.contains("stopped, 0 sessions were live"), "{log}");
            assert!(!daemon.socket().exists());
        }
    }
}

#[test]
fn a_second_request_ends_it_at_once() {
    for flags in WITH_AND_WITHOUT_MONITOR {
        for second in [Signal::TERM, Signal::INT] {
            let mut daemon = launch(flags).start();
            let request = unfinished_request(&daemon);
            daemon.signal(Signal::TERM);
            eventually("it is stopping", || !daemon.socket().exists());
            // With a monitor, a service manager and a terminal send the same signal to the worker too.
            if flags.is_empty() {
                daemon.signal_worker(Signal::TERM);
            }
            assert_eq!(daemon.ended(), None, "{}", daemon.log());
            daemon.signal(second);
            let mut ended = None;
            let took = within(Duration::from_secs(10), "it ends", || {
                ended = daemon.ended();
                ended.is_some()
            });
            let log = daemon.log();
            assert_eq!(ended.unwrap().code(), Some(AT_ONCE), "{log}");
            assert!(took < SOONER, "{took:?}");
            assert!(log.contains("stopping at once"), "{log}");
            drop(request);
        }
    }
}

#[test]
fn one_request_for_both_processes_is_an_end_in_order() {
    let mut daemon = launch(&[]).start();
    let request = unfinished_request(&daemon);
    daemon.signal_worker(Signal::TERM);
    daemon.signal(Signal::TERM);
    let status = daemon.wait();
    assert!(status.success(), "{status:?}\n{}", daemon.log());
    drop(request);
}

#[test]
fn quit_ends_it_at_once_and_leaves_no_socket() {
    for flags in WITH_AND_WITHOUT_MONITOR {
        let mut daemon = launch(flags).start();
        let (request, events) = (unfinished_request(&daemon), daemon.events());
        daemon.signal(Signal::QUIT);
        assert!(events.end_with_shutdown());
        let status = daemon.wait();
        let log = daemon.log();
        assert_eq!(status.code(), Some(AT_ONCE), "{log}");
        assert!(log.contains("SIGQUIT: stopping at once"), "{log}");
        assert!(!daemon.socket().exists());
        drop(request);
    }
}

#[test]
fn without_a_connection_quit_has_the_same_exit_code() {
    for flags in WITH_AND_WITHOUT_MONITOR {
        let mut daemon = launch(flags).start();
        daemon.signal(Signal::QUIT);
        assert_eq!(daemon.wait().code(), Some(AT_ONCE), "{}", daemon.log());
        assert!(!daemon.socket().exists());
    }
}

/// The first worker, and one that replaces another, which has left a socket.
#[test]
fn a_request_to_end_in_the_start_of_a_worker_is_an_end_in_order() {
    for is_first in [true, false] {
        for round in 0..10 {
            let mut daemon = launch(&[]).spawn();
            let workers = |daemon: &TestDaemon| children_of(daemon.started());
            let mut former = Vec::new();
            if !is_first {
                daemon.serves();
                former = workers(&daemon);
                daemon.signal_worker(Signal::KILL);
            }
            eventually("a worker starts", || {
                let now = workers(&daemon);
                !now.is_empty() && now != former
            });
            thread::sleep(Duration::from_micros(500 * round));
            daemon.signal(Signal::TERM);
            let status = daemon.wait();
            let log = daemon.log();
            assert_eq!(status.code(), Some(0), "{status:?}\n{log}");
            assert!(!daemon.socket().exists(), "{log}");
        }
    }
}

#[test]
fn a_worker_that_quit_ends_is_not_replaced() {
    let mut daemon = launch(&[]).start();
    let request = unfinished_request(&daemon);
    // A terminal sends it to both processes.
    daemon.signal_worker(Signal::QUIT);
    assert_eq!(daemon.wait().code(), Some(AT_ONCE));
    let log = daemon.log();
    assert!(!log.contains("starting another worker"), "{log}");
    drop(request);
}

#[test]
fn user_signals_write_to_the_log_and_do_nothing_else() {
    for flags in WITH_AND_WITHOUT_MONITOR {
        let daemon = launch(flags).start();
        daemon.register("s", std::process::id());
        daemon.signal(Signal::USR1);
        eventually("the state", || {
            daemon
                .log()
                .contains("SIGUSR1: 1 sessions of 1 processes, ")
        });
        daemon.signal(Signal::USR2);
        eventually("a line", || daemon.log().contains("SIGUSR2 has no effect"));
        assert!(daemon.lists("s"));
        daemon.stop();
    }
}

#[test]
fn an_interrupt_that_was_ignored_stays_ignored() {
    for flags in WITH_AND_WITHOUT_MONITOR {
        let ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"];
        let mut daemon = launch(flags).through(&ignoring).start();
        throughout(Duration::from_millis(300), || {
            daemon.signal(Signal::INT);
            daemon.signal_worker(Signal::INT);
        });
        assert_eq!(daemon.ended(), None);
        let log = daemon.log();
        assert!(!log.contains("SIGINT"), "{log}");
        daemon.stop();
    }
}

#[test]
fn a_killed_worker_leaves_a_line() {
    let daemon = launch(&[]).start();
    daemon.signal_worker(Signal::KILL);
    eventually("the end of the worker is logged", || {
        daemon.log().contains("the worker was killed by signal 9")
    });
    eventually("another one is started", || {
        daemon.log().contains("starting another worker")
    });
    let health: Value = daemon.get("/v1/health").unwrap();
    assert_eq!(health["restarts"], 1);
    daemon.stop();
}

#[test]
fn it_outlives_its_terminal() {
    if !reaper_tests::daemon::has_program("script") {
        reaper_tests::expect::skip("script is not installed");
        return;
    }
    for flags in WITH_AND_WITHOUT_MONITOR {
        let folder = private_folder();
        let socket = folder.path().join("s.sock");
        let line = format!(
            "exec {} daemon --no-config --sources pidfd --socket {} {}",
            reaperd().display(),
            socket.display(),
            flags.join(" ")
        );
        // Its log goes to the terminal, where it cannot be written any more.
        let mut terminal = Command::new("script")
            .args(["-qfc", &line, "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("it serves", || UnixStream::connect(&socket).is_ok());
        let daemon = children_of(terminal.id())[0];
        terminal.kill().unwrap();
        terminal.wait().unwrap();
        throughout(Duration::from_millis(500), || {
            UnixStream::connect(&socket).unwrap();
        });
        kill_process(daemon, Signal::TERM).unwrap();
        eventually("it ends", || !socket.exists());
    }
}

/// `unshare` with the daemon as pid 1 of a pid namespace. Dropped, both are killed.
struct Container {
    unshare: Child,
    socket: PathBuf,
    log: PathBuf,
    _folder: TempDir,
}

impl Container {
    fn start(flags: &[&str]) -> Self {
        let folder = private_folder();
        let socket = folder.path().join("s.sock");
        let log = folder.path().join("log");
        let unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc"])
            .arg(reaperd())
            .args([
                "daemon",
                "--no-config",
                "--log",
                "debug",
                "--sources",
                "pidfd",
            ])
            .args(flags)
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let container = Self {
            unshare,
            socket,
            log,
            _folder: folder,
        };
        eventually("it serves", || {
            UnixStream::connect(&container.socket).is_ok()
        });
        container
    }

    /// The daemon, which is pid 1 inside.
    fn first(&self) -> Pid {
        children_of(self.unshare.id())[0]
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for pid in children_of(self.unshare.id()) {
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
        self.unshare.kill().unwrap_or_default();
        self.unshare.wait().map(drop).unwrap_or_default();
    }
}

#[test]
fn as_pid_1_it_reaps_orphans_and_ends_when_asked() {
    if !root_with(&["unshare", "nsenter"]) {
        return;
    }
    for flags in WITH_AND_WITHOUT_MONITOR {
        let mut container = Container::start(flags);
        let first = container.first().as_raw_nonzero().get().to_string();
        // Each shell ends before its child, which pid 1 inherits.
        for _ in 0..ORPHANS {
            let status = Command::new("nsenter")
                .args(["--pid", "--mount", "--target", &first])
                .args(["sh", "-c", "sleep 0.05 >/dev/null 2>&1 &"])
                .status()
                .unwrap();
            assert!(status.success());
        }
        eventually("all orphans are reaped", || {
            container.log().matches("orphaned process ").count() >= ORPHANS
        });
        let workers = usize::from(flags.is_empty());
        assert_eq!(
            children_of(first.parse().unwrap()).len(),
            workers,
            "no zombies"
        );
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
            kill_process(container.first(), signal).unwrap();
        }
        eventually("signals arrive", || {
            let log = container.log();
            [
                "configuration reloaded",
                "SIGUSR1: 0 sessions",
                "SIGUSR2 has",
            ]
            .iter()
            .all(|it| log.contains(it))
        });
        kill_process(container.first(), Signal::TERM).unwrap();
        let status = container.unshare.wait().unwrap();
        let log = container.log();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(
            log.contains("SIGTERM: stopping") && !container.socket.exists(),
            "{log}"
        );
    }
}
