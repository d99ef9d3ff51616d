//! One run of a daemon during which a fault happens, and what must hold whatever the fault. The
//! daemon may refuse to start, cleanly and with the reason. Otherwise it serves: dead processes are
//! removed within a sweep or two, live ones stay, a refused registration is not stored and can be
//! repeated, and the daemon stops cleanly.

use std::process::ExitStatus;
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, TestDaemon, session_of};
use reaper_tests::sys::seccomp::Denied;
use reaper_tests::wait::{Deadline, eventually, eventually_some, within};
use reaperd::client::{ClientError, SessionList, SourceReport, SourcesReport, Version};
use reaperd::testkit::conformance::kernel_before;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::injection::{Fault, Injection, Since};

/// Many sweeps, on a machine that is busy with other work.
pub(crate) const REMOVED_WITHIN: Duration = Duration::from_secs(10);
/// A short interval, so that many sweeps fit into a short run.
pub(crate) const SWEEP: Duration = Duration::from_millis(100);
/// Enough descriptors to pin seven processes, fewer if this test inherited some. The others are for
/// everything else.
const FEW_DESCRIPTORS: &str = "ulimit -n 52; exec \"$@\"";
const PINNED_WITH_FEW: usize = 7;

/// What the daemon can pin processes by, and therefore how it checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PinnedBy {
    /// Everything that this kernel offers.
    Pidfd,
    /// The kernel has no pidfds: a descriptor of the stat file.
    StatFile,
    /// No descriptor is left for pinning: a pidfd is opened for each check.
    PidfdInode,
    /// Neither: pid and start time.
    StartTime,
}

impl PinnedBy {
    /// Before 6.9 all pidfds share an inode, so the daemon opens none for a check.
    pub(crate) fn is_available(self) -> bool {
        self != Self::PidfdInode || !kernel_before(6, 9)
    }

    fn launch(self) -> Launch {
        let sources = match self {
            Self::Pidfd | Self::StatFile => "auto",
            // The other sources would need descriptors that are not there.
            Self::PidfdInode | Self::StartTime => "sweep",
        };
        let sweep = format!("{}ms", SWEEP.as_millis());
        let launch = Launch::with(&["--sources", sources, "--sweep-interval", &sweep]);
        match self {
            Self::Pidfd | Self::StatFile => launch,
            Self::PidfdInode | Self::StartTime => {
                launch.through(&["sh", "-c", FEW_DESCRIPTORS, "sh"])
            }
        }
    }

    fn denied(self) -> Vec<Denied> {
        match self {
            Self::Pidfd | Self::PidfdInode => Vec::new(),
            Self::StatFile | Self::StartTime => {
                vec![(libc::SYS_pidfd_open.into(), Some(Errno::NOSYS))]
            }
        }
    }

    /// Processes that use up the descriptors for pinning.
    fn fillers(self) -> Crowd {
        let count = match self {
            Self::Pidfd | Self::StatFile => 0,
            Self::PidfdInode | Self::StartTime => PINNED_WITH_FEW,
        };
        Crowd::start(count).unwrap()
    }
}

/// Whether the socket file may be left behind after this fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketFile {
    Removed,
    MayStay,
}

/// The result of a run with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The call was made too seldom for the fault to be injected.
    NotInjected,
    /// The fault was injected, and the daemon did its work.
    Survived,
    /// The daemon refused to start, cleanly and with the reason.
    Refused,
}

/// Runs a daemon with a fault. The calls in `denied` fail throughout, beside the fault.
pub(crate) fn run_with_fault(
    fault: Fault,
    pinned_by: PinnedBy,
    denied: &[Denied],
    file: SocketFile,
) -> Outcome {
    // Dropped after the daemon, whose calls it handles.
    let mut injection = Injection::new(fault);
    let launch = pinned_by.launch().one_process();
    let denied = [&pinned_by.denied(), denied].concat();
    let mut daemon = launch.spawn_by(|command| injection.spawn(command, &denied));
    if let Some(status) = wait_until_serving_or_ended(&mut daemon) {
        check_refusal(&daemon, status);
        return Outcome::Refused;
    }
    assert!(
        injection.is_counting(),
        "the daemon's first call was not seen"
    );
    let fillers = pinned_by.fillers();
    for pid in fillers.pids() {
        register_with_retries(&daemon, pid);
    }
    injection.reached(Since::Serving);
    check_removals(&daemon, &fillers, || injection.reached(Since::Watching));
    wait_for_sources(&daemon);
    stop_cleanly(daemon, file);
    if injection.has_happened() {
        Outcome::Survived
    } else {
        Outcome::NotInjected
    }
}

/// Runs a daemon with a fault that lasts for some sweeps, during which no death need be noticed,
/// and is then lifted. Returns whether the fault was injected.
pub(crate) fn run_with_lifted_fault(fault: Fault, pinned_by: PinnedBy) -> bool {
    let mut injection = Injection::new(fault);
    let launch = pinned_by.launch().one_process();
    let mut daemon = launch.spawn_by(|command| injection.spawn(command, &pinned_by.denied()));
    assert_eq!(
        wait_until_serving_or_ended(&mut daemon),
        None,
        "{}",
        daemon.log()
    );
    let fillers = pinned_by.fillers();
    let (controls, mut dying) = (Crowd::start(2).unwrap(), Crowd::start(2).unwrap());
    let all = fillers.pids().chain(controls.pids()).chain(dying.pids());
    let tokens: Vec<_> = all.map(|pid| register_with_retries(&daemon, pid)).collect();
    injection.reached(Since::Watching);
    dying.kill().unwrap();
    let some_sweeps = Deadline::after(6 * SWEEP);
    let live = || fillers.pids().chain(controls.pids());
    while !some_sweeps.has_passed() {
        if let Some(list) = listed(&daemon, some_sweeps.left().max(SWEEP)) {
            check_live(&daemon, &list, live());
        }
    }
    let has_happened = injection.has_happened();
    injection.lift();
    within(
        REMOVED_WITHIN,
        "the dead are removed after the fault",
        || {
            listed(&daemon, REMOVED_WITHIN).is_some_and(|list| {
                check_live(&daemon, &list, live());
                !dying.pids().any(|pid| list.contains(&session_of(pid)))
            })
        },
    );
    let is_accepted = |token: &&Token| daemon.accepts(token);
    assert_eq!(tokens.iter().filter(is_accepted).count(), live().count());
    stop_cleanly(daemon, SocketFile::Removed);
    has_happened
}

/// Waits until only the sessions of these live processes are listed.
pub(crate) fn wait_until_only(controls: &Crowd, daemon: &TestDaemon) {
    within(REMOVED_WITHIN, "the dead are removed", || {
        let left = daemon.listed();
        assert!(left.is_superset(&controls.sessions()), "a false death");
        left == controls.sessions()
    });
}

/// Checks that the sessions of these live processes are listed.
fn check_live(daemon: &TestDaemon, list: &[String], pids: impl Iterator<Item = u32>) {
    for pid in pids {
        assert!(
            list.contains(&session_of(pid)),
            "a false death: {pid}\n{}",
            daemon.log()
        );
    }
}

/// Waits until the daemon serves. Returns its exit status if it has ended instead.
pub(crate) fn wait_until_serving_or_ended(daemon: &mut TestDaemon) -> Option<ExitStatus> {
    let mut status = None;
    eventually("the daemon serves or ends", || {
        status = daemon.ended();
        status.is_some() || daemon.get::<Version>("/v1/version").is_ok()
    });
    status
}

/// A source that is slow to start makes its calls after the first sessions have been removed.
fn wait_for_sources(daemon: &TestDaemon) {
    eventually("every source has reported its state", || {
        daemon
            .get::<SourcesReport>("/v1/sources")
            .is_ok_and(|report| !report.sources.iter().any(SourceReport::is_starting))
    });
}

fn check_refusal(daemon: &TestDaemon, status: ExitStatus) {
    let log = daemon.log();
    assert_eq!(status.code(), Some(1), "{status:?}\n{log}");
    assert!(log.contains("reaperd: "), "no sentence: {log}");
    assert!(log.contains("\n  try: "), "no remedy: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// Registers three processes. One dies right after its registration and one a little later, and
/// both must be removed. The third and the `others` stay alive and must stay listed.
pub(crate) fn check_removals(daemon: &TestDaemon, others: &Crowd, all_are_watched: impl FnOnce()) {
    let [control, mut early, mut late] = [1; 3].map(|one| Crowd::start(one).unwrap());
    let token = register_with_retries(daemon, pid_of(&control));
    register_with_retries(daemon, pid_of(&late));
    register_with_retries(daemon, pid_of(&early));
    all_are_watched();
    early.kill().unwrap();
    let is_removed = |crowd: &Crowd| {
        listed(daemon, REMOVED_WITHIN).is_some_and(|list| {
            check_live(daemon, &list, control.pids().chain(others.pids()));
            !list.contains(&session_of(pid_of(crowd)))
        })
    };
    within(REMOVED_WITHIN, "the first dead process is removed", || {
        is_removed(&early)
    });
    late.kill().unwrap();
    within(REMOVED_WITHIN, "the second dead process is removed", || {
        is_removed(&late)
    });
    let accepted = eventually_some("a token is resolved", || daemon.resolves(&token).ok());
    assert!(accepted, "a live session's token is refused");
}

/// Registers a process, if need be repeatedly, and checks each refusal.
pub(crate) fn register_with_retries(daemon: &TestDaemon, pid: u32) -> Token {
    let id = session_of(pid);
    eventually_some("a repeated registration succeeds", || {
        match daemon.try_register(&id, pid) {
            Ok(token) => return Some(token),
            Err(ClientError::Problem {
                status,
                code,
                detail,
            }) => {
                println!("register: {status} {detail}");
                // "Not now", or what is true of a `/proc` that shows nothing. The process is alive.
                let allowed = ["not_now", "foreign_pid_namespace", "process_hidden"];
                assert!(
                    allowed.contains(&code.as_str()),
                    "{status} {code}: {detail}"
                );
                let stored = listed(daemon, REMOVED_WITHIN).is_some_and(|list| list.contains(&id));
                assert!(!stored, "refused with {status} {detail} and stored");
            }
            // The response was lost, so the result of the request is unknown.
            Err(error) => println!("register: {error}"),
        }
        None
    })
}

/// The ids of the sessions, if the daemon responds in time.
fn listed(daemon: &TestDaemon, wait: Duration) -> Option<Vec<String>> {
    let list = daemon
        .get_within::<SessionList>(wait, "/v1/sessions")
        .ok()?;
    Some(list.sessions.into_iter().map(|it| it.session_id).collect())
}

fn pid_of(one: &Crowd) -> u32 {
    one.pids().next().expect("a crowd of one")
}

pub(crate) fn stop_cleanly(mut daemon: TestDaemon, file: SocketFile) {
    daemon.signal(Signal::TERM);
    let status = daemon.wait();
    let log = daemon.log();
    assert!(status.success(), "{status:?}\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    if file == SocketFile::Removed {
        assert!(!daemon.socket().exists(), "the socket file is left\n{log}");
    }
}
