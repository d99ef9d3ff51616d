//! Pids that are reused at once, with a daemon in a time namespace. The probe's times are those of
//! the host's clocks. A death before a registration must not be taken for one after it.

use std::collections::BTreeSet;

use reaper_registry::Token;
use reaper_tests::daemon::{Events, Launch, TestDaemon, children_of};
use reaper_tests::expect::{self, measured, root_with, skip};
use reaper_tests::fork_server::{ForkServer, Response};
use reaper_tests::time_namespace::Offsets;
use reaper_tests::wait::eventually;
use reaperd::client::Deregistered;
use reaperd::testkit::conformance::kernel_before;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::{fork_server_keeping_zombies, fork_server_program, scaled, working};

/// More than any detection takes. A wrong offset gives a larger time, or one before the death.
const DETECTED_WITHIN_US: u64 = 10_000_000;
/// How many reuses may miss the tick for each that does not.
const MISSED_TICKS: usize = 40;
/// An emulated machine may need more than a tick for every reuse. The test then runs with reuses
/// across ticks.
const MISSED_TICKS_EMULATED: usize = 5;

#[test]
fn in_a_time_namespace_no_successor_is_mistaken_for_its_predecessor() {
    if !root_with(&[]) {
        return;
    }
    if kernel_before(5, 6) {
        return skip("this kernel has no time namespaces");
    }
    for offsets in Offsets::all().into_iter().take(scaled(4, 2)) {
        for sources in ["auto", "ebpf", "netlink"].into_iter().take(scaled(3, 2)) {
            reuse_pids_in(offsets, sources);
        }
    }
}

fn reuse_pids_in(offsets: Offsets, sources: &str) {
    let prefix = offsets.through(&fork_server_program());
    let daemon = Launch::with(&["--sources", sources, "--sweep-interval", "60s"])
        .through(&prefix)
        .start();
    if sources != "auto" && working(&daemon, &[sources]).is_empty() {
        return println!("{sources} does not work here");
    }
    let mut fixture = Fixture::new(daemon);
    let wanted = scaled(200, 20);
    let is_emulated = expect::role().is_some();
    let missed = if is_emulated {
        MISSED_TICKS_EMULATED
    } else {
        MISSED_TICKS
    };
    let limit = missed * wanted;
    while fixture.reuses < wanted && fixture.others < limit {
        fixture.reuse();
    }
    let (reuses, others) = (fixture.reuses, fixture.others);
    fixture.end();
    assert!(
        is_emulated || reuses == wanted,
        "{reuses} within a tick, {others} not"
    );
    let side = |offset_ns: i64| if offset_ns < 0 { "behind" } else { "ahead" };
    let (monotonic, boottime) = (side(offsets.monotonic_ns), side(offsets.boottime_ns));
    let what = format!(
        "reuses within a tick, monotonic clock {monotonic}, boottime {boottime}, {sources}"
    );
    measured(&what, format!("{reuses}, {others} across ticks"));
    measured(&format!("{what}: mistaken"), 0);
    measured(&format!("{what}: false deaths"), 0);
}

struct Fixture {
    daemon: TestDaemon,
    /// The daemon itself, a child of the process that made the namespace.
    inner: Pid,
    events: Events,
    fork_server: ForkServer,
    reuses: usize,
    /// Reuses that missed the tick.
    others: usize,
    tokens: u64,
    ended: BTreeSet<String>,
}

impl Fixture {
    fn new(daemon: TestDaemon) -> Self {
        let inside = children_of(daemon.started());
        assert_eq!(inside.len(), 1, "the daemon is the only child");
        Self {
            events: daemon.events(),
            inner: inside[0],
            daemon,
            fork_server: fork_server_keeping_zombies(),
            reuses: 0,
            others: 0,
            tokens: 0,
            ended: BTreeSet::new(),
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token::parse(&format!("{:064x}", self.tokens)).unwrap()
    }

    /// Registers two processes of one pid. The first is removed; the second lives until it is ended
    /// here.
    fn reuse(&mut self) {
        let (first_token, token) = (self.token(), self.token());
        let round = self.tokens;
        let (first, second) = (format!("first-{round}"), format!("second-{round}"));
        let daemon = self.daemon.pid();
        let replaced = self.fork_server.replace(
            daemon,
            &self.daemon.socket(),
            [&first_token, &token],
            [&first, &second],
        );
        self.ended.insert(first.clone());
        let (pid, responses) = match replaced {
            Ok(replaced) => replaced,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {
                self.wait_for_removal(&first);
                return;
            }
            Err(error) => panic!("{error}\n{}", self.daemon.log()),
        };
        for Response { status, body } in &responses {
            assert_eq!(*status, 200, "{body}");
            assert_eq!(body["identity"], "pidfd", "{body}");
        }
        let removal = self.wait_for_removal(&first);
        assert!(!self.daemon.accepts(&first_token), "{removal:?}");
        assert!(
            self.daemon.accepts(&token),
            "a false death: {second}\n{}",
            self.daemon.log()
        );
        if responses[0].body["start_time"] == responses[1].body["start_time"] {
            self.reuses += 1;
        } else {
            self.others += 1;
        }
        self.ended.insert(second.clone());
        assert_eq!(self.fork_server.end(pid).unwrap(), 9);
        self.wait_for_removal(&second);
    }

    fn wait_for_removal(&mut self, session: &str) -> Deregistered {
        let removal = self.events.removal_of(session).data;
        assert!(
            removal.cause == "exited" || removal.cause == "pid_reused",
            "{removal:?}"
        );
        if let Some(took_us) = removal.detection_us {
            assert!((1..DETECTED_WITHIN_US).contains(&took_us), "{removal:?}");
        }
        removal
    }

    /// Checks that each ended process was removed exactly once, and no other one.
    fn end(self) {
        let Self {
            daemon,
            inner,
            events,
            ended,
            ..
        } = self;
        eventually("no session is listed", || daemon.list().is_empty());
        kill_process(inner, Signal::TERM).unwrap();
        daemon.stopped();
        let removals = events.to_end();
        let removed: BTreeSet<_> = removals.iter().map(|it| it.session().to_owned()).collect();
        assert_eq!((removals.len(), removed), (ended.len(), ended));
    }
}
