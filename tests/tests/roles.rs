//! The daemon in each role: which sources work, why the others do not, that each working source
//! finds deaths alone, and that every death is reported. What is expected of a kernel and role is
//! in `xtask/src/vm/matrix.rs`. Outside a guest nothing is expected, and the observed state is
//! printed.
#![cfg(target_os = "linux")]

use std::time::Duration;

use reaper_tests::daemon::{TestDaemon, doctor_through};
use reaper_tests::expect;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;
use reaperd::client::Deregistered;
use serde_json::Value;

const EVENT_SOURCES: [&str; 3] = ["netlink", "ebpf", "pidfd"];

/// So long that the sweep cannot hide what a source misses.
const NEVER: &str = "1h";
const NO_SWEEP: [&str; 4] = ["--sources", "auto", "--sweep-interval", NEVER];

/// No source takes longer to report a death, even on an emulated machine. A time of the wrong time
/// namespace's clock is off by more, or missing.
const DETECTED_WITHIN: Duration = Duration::from_secs(10);

/// One of this many deaths must be found by the source under test. The sweep that its start
/// requests may find the first ones.
const DEATHS: usize = 5;

fn is_proc_foreign() -> bool {
    expect::role().as_deref() == Some("foreign-proc")
}

/// Starts a daemon with these flags. With another namespace's `/proc` the daemon cannot translate a
/// caller's pids, so only the policy `any` accepts registrations.
fn daemon(flags: &[&str]) -> TestDaemon {
    let mut flags = flags.to_vec();
    if is_proc_foreign() {
        flags.extend(["--register-policy", "any"]);
    }
    TestDaemon::start(&flags)
}

/// Checks that the detection time of a death is plausible.
fn check_detection_time(removal: &Deregistered) {
    let Some(took) = removal.detection_us.map(Duration::from_micros) else {
        return;
    };
    assert!(!took.is_zero() && took < DETECTED_WITHIN, "{removal:?}");
}

/// Returns the sources that work. Checks each source against what is expected of it here.
fn working(daemon: &TestDaemon) -> Vec<&'static str> {
    let works = |source: &&str| {
        let settled = daemon.settled(source);
        let reason = settled.as_ref().err().map_or("", String::as_str);
        expect::check(source, &expect::source_state(settled.is_ok(), reason));
        settled.is_ok()
    };
    EVENT_SOURCES.into_iter().filter(works).collect()
}

#[test]
fn every_source_works_or_has_a_reason_and_working_sources_report_deaths() {
    let daemon = daemon(&NO_SWEEP);
    let working = working(&daemon);
    let mut events = daemon.events();
    for round in 0..5 {
        let session = format!("dying-{round}");
        let mut test_process = TestProcess::start();
        let token = daemon.register(&session, test_process.pid());
        assert!(daemon.accepts(&token));
        test_process.kill();
        let removal = events.removal_of(&session).data;
        assert_eq!(removal.cause, "exited");
        check_detection_time(&removal);
        let source = removal.source.as_deref().unwrap();
        // Where `/proc` entries cannot be read, each registration is followed by rechecks.
        let is_recheck = source == "register" && is_proc_foreign();
        assert!(
            working.contains(&source) || is_recheck,
            "{removal:?}, and {working:?} work"
        );
        assert!(!daemon.accepts(&token));
    }
    drop(events);
    daemon.stop();
}

/// With all sources together, the quickest one reports the death. Here each one must do it alone.
#[test]
fn each_working_source_alone_finds_a_death() {
    for source in EVENT_SOURCES.into_iter().chain(["sweep"]) {
        let interval = if source == "sweep" { "100ms" } else { NEVER };
        let daemon = daemon(&["--sources", source, "--sweep-interval", interval]);
        if let Err(reason) = daemon.settled(source) {
            // The other tests check what is expected of the source here.
            assert!(source != "sweep", "the sweep always works: {reason}");
            println!("{source} does not work here: {reason}");
            continue;
        }
        let mut events = daemon.events();
        let mut found_by = Vec::new();
        while found_by.last().is_none_or(|last| last != source) {
            if found_by.len() == DEATHS && is_proc_foreign() {
                // Where `/proc` entries cannot be read, each registration is followed by rechecks.
                assert!(
                    found_by.iter().all(|source| source == "register"),
                    "{found_by:?}"
                );
                break;
            }
            assert!(found_by.len() < DEATHS, "{source}: found by {found_by:?}");
            let session = format!("dying-{}", found_by.len());
            let removal = events.removal_after_kill(&daemon, &session).data;
            assert_eq!(removal.cause, "exited");
            check_detection_time(&removal);
            found_by.push(removal.source.unwrap());
        }
        drop(events);
        daemon.stop();
    }
}

#[test]
fn doctor_reports_the_same_states_and_a_remedy_for_what_does_not_work() {
    let daemon = daemon(&NO_SWEEP);
    let working = working(&daemon);
    for source in EVENT_SOURCES {
        let is_up = || daemon.source(source).state == "up";
        // The state may change while doctor runs; then doctor is run again.
        let mut finding = Value::Null;
        let mut was_up = false;
        eventually("the source keeps its state while doctor runs", || {
            was_up = is_up();
            let findings = doctor_through(&[], &daemon.socket());
            finding = findings
                .into_iter()
                .find(|it| it["subject"] == source)
                .unwrap();
            is_up() == was_up
        });
        println!("{finding}");
        let verdict = finding["verdict"].as_str().unwrap();
        // A source may work with a limitation, such as a buffer that cannot be enlarged.
        assert_eq!(verdict, if was_up { "ok" } else { "warn" }, "{finding}");
        let is_down = verdict == "warn" && finding["remedy"] != "";
        assert!(working.contains(&source) || is_down, "{finding}");
    }
    daemon.stop();
}
