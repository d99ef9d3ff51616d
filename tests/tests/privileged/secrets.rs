//! Secrets in the memory of the daemon, as root reads it: a stored key is there once or not at all, a
//! token never, and nothing is left of what was removed or refused.

mod dumps;
mod swap;
mod traffic;

use std::process::Command;
use std::time::Duration;

use reaper_tests::canary::{Canary, Form};
use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::expect::{root_with, skip};
use reaper_tests::memory_scan::MemoryScan;
use reaper_tests::sys::seccomp::{Call, spawn_denied};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;
use reaperd::testkit::clock::monotonic_ns;
use rustix::io::Errno;
use serde_json::Value;

use self::traffic::Sent;

/// How the arena is protected in a test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    MemfdSecret,
    Locked,
    Unlocked,
}

const KINDS: [Kind; 3] = [Kind::MemfdSecret, Kind::Locked, Kind::Unlocked];
/// The kinds that differ in what can be read of them.
const PROTECTED: [Kind; 2] = [Kind::MemfdSecret, Kind::Locked];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::MemfdSecret => "memfd_secret",
            Self::Locked => "locked",
            Self::Unlocked => "unlocked",
        }
    }

    /// A daemon whose system calls for stronger protection fail. `None`, with the reason printed, if
    /// the kernel has no such memory.
    fn start(self, arguments: &[&str]) -> Option<TestDaemon> {
        let calls = match self {
            Self::MemfdSecret => vec![],
            Self::Locked => vec![(Call::from(libc::SYS_memfd_secret), Some(Errno::NOSYS))],
            Self::Unlocked => vec![
                (Call::from(libc::SYS_memfd_secret), Some(Errno::NOSYS)),
                (Call::from(libc::SYS_mlock), Some(Errno::NOMEM)),
            ],
        };
        let launch = Launch::with(arguments);
        let mut daemon = launch.spawn_by(|command: &mut Command| spawn_denied(command, &calls));
        daemon.serves();
        let health: Value = daemon.get("/v1/health").unwrap();
        let kind = &health["memory"]["kind"];
        if self == Self::MemfdSecret && kind != self.name() {
            skip(format_args!("no memfd_secret here: {health}"));
            return None;
        }
        assert_eq!(kind, self.name(), "{health}");
        Some(daemon)
    }

    /// Asserts that each stored key is found as often as this kind of memory permits.
    fn check_stored(self, scan: &MemoryScan, sent: &Sent) {
        let places = scan.places_of(&sent.forms(|canary| vec![canary.raw_key()]));
        for (how, _) in &sent.canaries {
            let of_this = |place: &&String| place.contains(&format!(": {how}, "));
            let expected = usize::from(self != Self::MemfdSecret);
            let found = places.iter().filter(of_this).count();
            assert_eq!(found, expected, "{self:?}, {how}: {places:#?}");
        }
        let is_hidden = |mapping: &String| mapping.contains("secretmem");
        assert_eq!(
            scan.unreadable.iter().any(is_hidden),
            self == Self::MemfdSecret,
            "{:?}",
            scan.unreadable
        );
    }
}

fn check_absent(kind: Kind, scan: &MemoryScan, forms: &[Form]) {
    let places = scan.places_of(forms);
    assert!(places.is_empty(), "{kind:?}: {places:#?}");
}

#[test]
fn a_stored_key_is_in_memory_once_and_its_token_never() {
    if !root_with(&[]) {
        return;
    }
    for kind in KINDS {
        let Some(daemon) = kind.start(&[]) else {
            continue;
        };
        let process = TestProcess::start();
        let stored = traffic::store(&daemon.socket(), process.pid());
        let scan = MemoryScan::of(daemon.pid());
        kind.check_stored(&scan, &stored);
        check_absent(kind, &scan, &stored.forms(Canary::token_forms));
        check_absent(kind, &scan, &stored.forms(Canary::key_forms));
        drop(stored);
        daemon.stop();
    }
}

#[test]
fn nothing_of_a_removed_session_is_in_memory() {
    if !root_with(&[]) {
        return;
    }
    for kind in PROTECTED {
        let Some(daemon) = kind.start(&[]) else {
            continue;
        };
        let process = TestProcess::start();
        let stored = traffic::store(&daemon.socket(), process.pid());
        let removed = traffic::remove_each(&daemon.socket(), &stored);
        // Each was removed when its response arrived.
        let scan = MemoryScan::of(daemon.pid());
        check_absent(kind, &scan, &stored.forms(Canary::all_forms));
        drop((removed, stored));
        daemon.stop();
    }
}

#[test]
fn nothing_of_a_dead_process_s_sessions_is_in_memory() {
    if !root_with(&[]) {
        return;
    }
    for kind in PROTECTED {
        let Some(daemon) = kind.start(&[]) else {
            continue;
        };
        let mut process = TestProcess::start();
        let stored = traffic::store(&daemon.socket(), process.pid());
        let mut events = daemon.events();
        process.kill();
        for (session, _) in &stored.canaries {
            events.removal_of(session);
        }
        let scan = MemoryScan::of(daemon.pid());
        check_absent(kind, &scan, &stored.forms(Canary::all_forms));
        drop(stored);
        daemon.stop();
    }
}

#[test]
fn nothing_of_a_refused_request_is_in_memory() {
    if !root_with(&[]) {
        return;
    }
    for kind in PROTECTED {
        let Some(daemon) = kind.start(&["--max-sessions", "1"]) else {
            continue;
        };
        let process = TestProcess::start();
        daemon.register("fills the table", process.pid());
        let refused = traffic::refuse(&daemon.socket(), process.pid());
        let scan = MemoryScan::of(daemon.pid());
        check_absent(kind, &scan, &refused.forms(Canary::all_forms));
        drop(refused);
        daemon.stop();
    }
}

#[test]
fn nothing_of_a_connection_that_is_cut_is_in_memory() {
    if !root_with(&[]) {
        return;
    }
    let Some(daemon) = Kind::Locked.start(&[]) else {
        return;
    };
    let forms = traffic::cut(&daemon.socket()).forms(Canary::all_forms);
    // The daemon notices it a moment later.
    eventually("what was cut off is wiped", || {
        MemoryScan::of(daemon.pid()).places_of(&forms).is_empty()
    });
    daemon.stop();
}

/// How long after a removal what is left of a session may be in memory.
const CLEAN_WITHIN: Duration = Duration::from_millis(100);
/// How many removals are measured of each kind of memory.
const REMOVALS: usize = 20;

/// The worker is stopped as soon as the removal of the last session is seen, so that the scan shows its
/// memory at that moment. What is left then is searched again a moment later.
#[test]
fn memory_is_clean_within_a_tenth_of_a_second_after_the_removal() {
    if !root_with(&[]) {
        return;
    }
    for kind in PROTECTED {
        let Some(daemon) = kind.start(&[]) else {
            continue;
        };
        let mut times: Vec<_> = (0..REMOVALS).map(|_| time_to_clean(&daemon)).collect();
        times.sort_unstable();
        let (median, worst) = (times[REMOVALS / 2], times[REMOVALS - 1]);
        println!(
            "{kind:?}: clean after {median:?} (median), {worst:?} at most, {REMOVALS} removals"
        );
        assert!(worst <= CLEAN_WITHIN, "{kind:?}: {times:?}");
        daemon.stop();
    }
}

/// From the kill of a process with sessions to the moment at which nothing of them was in memory, without
/// the time for which the worker was stopped.
fn time_to_clean(daemon: &TestDaemon) -> Duration {
    let mut process = TestProcess::start();
    let stored = traffic::store(&daemon.socket(), process.pid());
    let forms = stored.forms(Canary::all_forms);
    let mut events = daemon.events();
    let mut running = Duration::ZERO;
    let mut since_ns = monotonic_ns();
    process.kill();
    for (session, _) in &stored.canaries {
        events.removal_of(session);
    }
    loop {
        daemon.suspend();
        running += Duration::from_nanos(monotonic_ns() - since_ns);
        let places = MemoryScan::of(daemon.pid()).places_of(&forms);
        daemon.resume();
        if places.is_empty() {
            return running;
        }
        assert!(running <= CLEAN_WITHIN, "{running:?}: {places:#?}");
        since_ns = monotonic_ns();
    }
}
