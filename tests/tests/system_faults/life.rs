//! A short life of a daemon to which something happens at some point, and what must be true of it
//! whatever that was. It may refuse to start, in order and with its reason. Else it serves: the dead
//! are gone within a sweep or two, the living stays, what was refused is not stored and can be asked
//! for again, and the end is in order.

use std::process::ExitStatus;
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, TestDaemon, session_of};
use reaper_tests::wait::{Deadline, eventually, within};
use reaperd::client::{ClientError, SessionList, SourceReport, SourcesReport, Version};
use reaperd::testkit::conformance::kernel_before;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::injection::{Denied, Fault, Injection, Since};

/// Many sweeps, on a machine that is busy with other work.
pub(crate) const GONE_WITHIN: Duration = Duration::from_secs(10);
/// A short interval, so that many fit into a short life.
pub(crate) const SWEEP: Duration = Duration::from_millis(100);
/// Descriptors with which seven processes can be pinned, and fewer where this test was started with
/// some open; the rest is for everything else.
const FEW_DESCRIPTORS: &str = "ulimit -n 32; exec \"$@\"";
const PINNED_WITH_FEW: usize = 7;

/// What the daemon can pin processes with, and therefore through what it looks at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Footing {
    /// All that there is here.
    Pidfd,
    /// Pidfds are unknown to the kernel: a descriptor of the stat file.
    Stat,
    /// No descriptor is left for pinning: a pidfd for the length of a look.
    Inode,
    /// Neither: number and start time.
    Number,
}

impl Footing {
    /// Before 6.9 all pidfds share an inode, so that none is opened only to look.
    pub(crate) fn is_to_be_had(self) -> bool {
        self != Self::Inode || !kernel_before(6, 9)
    }

    fn launch(self) -> Launch {
        let sources = match self {
            Self::Pidfd | Self::Stat => "auto",
            // The others would need descriptors that are not there.
            Self::Inode | Self::Number => "sweep",
        };
        let sweep = format!("{}ms", SWEEP.as_millis());
        let launch = Launch::with(&["--sources", sources, "--sweep-interval", &sweep]);
        match self {
            Self::Pidfd | Self::Stat => launch,
            Self::Inode | Self::Number => launch.through(&["sh", "-c", FEW_DESCRIPTORS, "sh"]),
        }
    }

    fn denied(self) -> Vec<Denied> {
        match self {
            Self::Pidfd | Self::Inode => Vec::new(),
            Self::Stat | Self::Number => vec![(libc::SYS_pidfd_open.into(), Some(Errno::NOSYS))],
        }
    }

    /// Who takes the descriptors that there are for pinning.
    fn fillers(self) -> Crowd {
        let count = match self {
            Self::Pidfd | Self::Stat => 0,
            Self::Inode | Self::Number => PINNED_WITH_FEW,
        };
        Crowd::start(count).unwrap()
    }
}

/// Whether this fault excuses a socket file that stays behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketFile {
    Removed,
    MayStay,
}

/// What came of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The call was not made as often.
    NotStruck,
    /// It struck, and the daemon did what it is there for.
    Survived,
    /// The daemon would not start, in order and with its reason.
    Refused,
}

/// Runs it once. What is denied fails throughout, beside the fault.
pub(crate) fn under(
    fault: Fault,
    footing: Footing,
    denied: &[Denied],
    file: SocketFile,
) -> Outcome {
    // Dropped after the daemon, whose calls it answers.
    let mut injection = Injection::new(fault);
    let launch = footing.launch();
    let denied = [&footing.denied(), denied].concat();
    let mut daemon = launch.spawn_by(|command| injection.spawn(command, &denied));
    if let Some(status) = serves_or_ends(&mut daemon) {
        refused_in_order(&daemon, status);
        return Outcome::Refused;
    }
    assert!(
        injection.is_counting(),
        "the first call of its own is not seen"
    );
    let fillers = footing.fillers();
    for pid in fillers.pids() {
        registers(&daemon, pid);
    }
    injection.reached(Since::Serving);
    the_dead_go_and_the_living_stays(&daemon, &fillers, || injection.reached(Since::Watching));
    every_source_has_started(&daemon);
    stops_in_order(daemon, file);
    if injection.has_struck() {
        Outcome::Survived
    } else {
        Outcome::NotStruck
    }
}

/// Has the fault last for some sweeps, in which no death need be noticed, and then be over. Answers
/// whether it has struck.
pub(crate) fn outlives(fault: Fault, footing: Footing) -> bool {
    let mut injection = Injection::new(fault);
    let launch = footing.launch();
    let mut daemon = launch.spawn_by(|command| injection.spawn(command, &footing.denied()));
    assert_eq!(serves_or_ends(&mut daemon), None, "{}", daemon.log());
    let fillers = footing.fillers();
    let (living, mut dying) = (Crowd::start(2).unwrap(), Crowd::start(2).unwrap());
    let everybody = fillers.pids().chain(living.pids()).chain(dying.pids());
    let tokens: Vec<_> = everybody.map(|pid| registers(&daemon, pid)).collect();
    injection.reached(Since::Watching);
    dying.kill().unwrap();
    let some_sweeps = Deadline::after(6 * SWEEP);
    let stay = |list: &[String]| {
        for pid in fillers.pids().chain(living.pids()) {
            assert!(
                list.contains(&session_of(pid)),
                "a false death\n{}",
                daemon.log()
            );
        }
    };
    while !some_sweeps.has_passed() {
        listed(&daemon, some_sweeps.left().max(SWEEP)).inspect(|list| stay(list));
    }
    let has_struck = injection.has_struck();
    injection.lift();
    within(GONE_WITHIN, "the dead are gone after it", || {
        listed(&daemon, GONE_WITHIN).is_some_and(|list| {
            stay(&list);
            !dying.pids().any(|pid| list.contains(&session_of(pid)))
        })
    });
    let lives = |token: &&Token| daemon.accepts(token);
    let alive = fillers.pids().chain(living.pids()).count();
    assert_eq!(tokens.iter().filter(lives).count(), alive);
    stops_in_order(daemon, SocketFile::Removed);
    has_struck
}

/// Waits until it serves; `Some`: it has ended instead.
pub(crate) fn serves_or_ends(daemon: &mut TestDaemon) -> Option<ExitStatus> {
    let mut status = None;
    eventually("the daemon serves or ends", || {
        status = daemon.ended();
        status.is_some() || daemon.get::<Version>("/v1/version").is_ok()
    });
    status
}

/// One that is slow to start makes its calls after the first sessions have come and gone.
fn every_source_has_started(daemon: &TestDaemon) {
    eventually("every source has said how it is", || {
        daemon
            .get::<SourcesReport>("/v1/sources")
            .is_ok_and(|report| !report.sources.iter().any(SourceReport::is_starting))
    });
}

fn refused_in_order(daemon: &TestDaemon, status: ExitStatus) {
    let log = daemon.log();
    assert_eq!(status.code(), Some(1), "{status:?}\n{log}");
    assert!(log.contains("reaperd: "), "no sentence: {log}");
    assert!(log.contains("\n  try: "), "no remedy: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// Three test processes: one dies right after its registration, one a little later, one not at all.
pub(crate) fn the_dead_go_and_the_living_stays(
    daemon: &TestDaemon,
    others: &Crowd,
    all_are_watched: impl FnOnce(),
) {
    let [living, mut early, mut late] = [1; 3].map(|one| Crowd::start(one).unwrap());
    let token = registers(daemon, number(&living));
    registers(daemon, number(&late));
    registers(daemon, number(&early));
    all_are_watched();
    early.kill().unwrap();
    let stays = |list: &[String]| {
        for pid in living.pids().chain(others.pids()) {
            assert!(
                list.contains(&session_of(pid)),
                "a false death: {pid}\n{}",
                daemon.log()
            );
        }
    };
    let is_gone = |crowd: &Crowd| {
        listed(daemon, GONE_WITHIN).is_some_and(|list| {
            stays(&list);
            !list.contains(&session_of(number(crowd)))
        })
    };
    within(GONE_WITHIN, "the first dead is gone", || is_gone(&early));
    late.kill().unwrap();
    within(GONE_WITHIN, "the second dead is gone", || is_gone(&late));
    let mut accepted = None;
    eventually("a token is resolved", || {
        accepted = daemon.resolves(&token).ok();
        accepted.is_some()
    });
    assert_eq!(accepted, Some(true), "the living one's token is refused");
}

/// Registers until it is done, and holds every refusal to its word.
pub(crate) fn registers(daemon: &TestDaemon, pid: u32) -> Token {
    let id = session_of(pid);
    let mut token = None;
    eventually("a registration succeeds when repeated", || {
        match daemon.try_register(&id, pid) {
            Ok(registered) => token = Some(registered),
            Err(ClientError::Problem {
                status,
                code,
                detail,
            }) => {
                println!("register: {status} {detail}");
                // "Not now", or what is true of a `/proc` that shows nothing. But it lives.
                let may_be_said = ["not_now", "foreign_pid_namespace", "process_hidden"];
                assert!(
                    may_be_said.contains(&code.as_str()),
                    "{status} {code}: {detail}"
                );
                let stored = listed(daemon, GONE_WITHIN).is_some_and(|list| list.contains(&id));
                assert!(!stored, "refused with {status} {detail} and stored");
            }
            // The answer was lost, and what became of the question is not known.
            Err(error) => println!("register: {error}"),
        }
        token.is_some()
    });
    token.expect("it was registered")
}

/// The sessions' ids, if the daemon answers in time.
fn listed(daemon: &TestDaemon, wait: Duration) -> Option<Vec<String>> {
    let list = daemon
        .get_within::<SessionList>(wait, "/v1/sessions")
        .ok()?;
    Some(list.sessions.into_iter().map(|it| it.session_id).collect())
}

fn number(one: &Crowd) -> u32 {
    one.pids().next().expect("a crowd of one")
}

pub(crate) fn stops_in_order(mut daemon: TestDaemon, file: SocketFile) {
    daemon.signal(Signal::TERM);
    let status = daemon.wait();
    let log = daemon.log();
    assert!(status.success(), "{status:?}\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    if file == SocketFile::Removed {
        assert!(!daemon.socket().exists(), "it left its socket\n{log}");
    }
}
