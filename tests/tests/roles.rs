//! The daemon in each role: which sources work, why the others do not, that each of those that work
//! tells of deaths by itself, and that every death is told all the same. What is expected of a kernel and role is in `xtask/src/vm/matrix.rs`; outside a
//! guest nothing is, and what is said is printed.
#![cfg(target_os = "linux")]

use std::time::Duration;

use reaper_tests::daemon::{TestDaemon, doctor_through, reaperd};
use reaper_tests::expect;
use reaper_tests::wait::eventually;
use reaperd::client::Deregistered;
use reaperd::testkit::test_process::{Kind, TestProcess};
use serde_json::Value;

const EVENT_SOURCES: [&str; 3] = ["netlink", "ebpf", "pidfd"];

/// So long that it makes up for nothing.
const NEVER: &str = "1h";
const NO_SWEEP: [&str; 4] = ["--sources", "auto", "--sweep-interval", NEVER];

/// No source takes longer to be told of a death, even on an emulated machine. A time that is taken on
/// one clock and read on another, of a time namespace, is off by more or reads as none at all.
const DETECTED_WITHIN: Duration = Duration::from_secs(10);

/// Deaths of which one must be told by the source under test: for the first of them the look at
/// everybody that follows a start may come before it.
const DEATHS: usize = 5;

fn is_proc_foreign() -> bool {
    expect::role().as_deref() == Some("foreign-proc")
}

/// A daemon with these flags. In another namespace's `/proc` nothing shows by which pids a caller
/// names processes, and then only the policy `any` takes its word.
fn daemon(flags: &[&str]) -> TestDaemon {
    let mut flags = flags.to_vec();
    if is_proc_foreign() {
        flags.extend(["--register-policy", "any"]);
    }
    TestDaemon::start(&flags)
}

/// The death was told in a time that can be true.
fn was_detected_in_time(told: &Deregistered) {
    let Some(took) = told.detection_us.map(Duration::from_micros) else {
        return;
    };
    assert!(!took.is_zero() && took < DETECTED_WITHIN, "{told:?}");
}

/// The sources that work, each held to what is expected of it here.
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
fn every_source_works_or_says_why_not_and_deaths_are_told_by_those_that_do() {
    let daemon = daemon(&NO_SWEEP);
    let working = working(&daemon);
    let mut events = daemon.events();
    for round in 0..5 {
        let session = format!("doomed-{round}");
        let mut test_process = TestProcess::spawn(reaperd(), Kind::Sleep).unwrap();
        let token = daemon.register(&session, test_process.pid().get());
        assert!(daemon.accepts(&token));
        test_process.kill().unwrap();
        let told = events.removal_of(&session).told;
        assert_eq!(told.cause, "exited");
        was_detected_in_time(&told);
        let source = told.source.as_deref().unwrap();
        // Where no entry can be read, each registration is followed by looks of its own.
        let is_its_own_look = source == "register" && is_proc_foreign();
        assert!(
            working.contains(&source) || is_its_own_look,
            "{told:?}, and {working:?} work"
        );
        assert!(!daemon.accepts(&token));
    }
    drop(events);
    daemon.stop();
}

/// Together they are satisfied by the quickest: here each has to do it alone.
#[test]
fn each_source_that_works_tells_of_a_death_by_itself() {
    for source in EVENT_SOURCES.into_iter().chain(["sweep"]) {
        let interval = if source == "sweep" { "100ms" } else { NEVER };
        let daemon = daemon(&["--sources", source, "--sweep-interval", interval]);
        if let Err(reason) = daemon.settled(source) {
            // What is expected of it here is checked by the tests of all of them.
            assert!(source != "sweep", "it always works: {reason}");
            println!("{source} does not work here: {reason}");
            continue;
        }
        let mut events = daemon.events();
        let mut tellers = Vec::new();
        while tellers.last().is_none_or(|teller| teller != source) {
            if tellers.len() == DEATHS && is_proc_foreign() {
                // Where no entry can be read, each registration is followed by looks of its own.
                assert!(
                    tellers.iter().all(|teller| teller == "register"),
                    "{tellers:?}"
                );
                break;
            }
            assert!(tellers.len() < DEATHS, "{source}: told by {tellers:?}");
            let session = format!("doomed-{}", tellers.len());
            let mut test_process = TestProcess::spawn(reaperd(), Kind::Sleep).unwrap();
            daemon.register(&session, test_process.pid().get());
            test_process.kill().unwrap();
            let told = events.removal_of(&session).told;
            assert_eq!(told.cause, "exited");
            was_detected_in_time(&told);
            tellers.push(told.source.unwrap());
        }
        drop(events);
        daemon.stop();
    }
}

#[test]
fn doctor_agrees_and_has_a_remedy_for_what_does_not_work() {
    let daemon = daemon(&NO_SWEEP);
    let working = working(&daemon);
    for source in EVENT_SOURCES {
        let is_up = || {
            let report = daemon.sources();
            let report = report.sources.iter().find(|one| one.source == source);
            report.is_some_and(|report| report.state == "up")
        };
        // How it is may change while doctor asks: then it is asked again.
        let mut finding = Value::Null;
        let mut was_up = false;
        eventually(
            "the source stays as it is for the time of a question",
            || {
                was_up = is_up();
                let findings = doctor_through(&[], &daemon.socket());
                finding = findings
                    .into_iter()
                    .find(|it| it["subject"] == source)
                    .unwrap();
                is_up() == was_up
            },
        );
        println!("{finding}");
        let verdict = finding["verdict"].as_str().unwrap();
        // It may work with a limit, such as a buffer that may not be larger.
        assert_eq!(verdict, if was_up { "ok" } else { "warn" }, "{finding}");
        let is_down = verdict == "warn" && finding["remedy"] != "";
        assert!(working.contains(&source) || is_down, "{finding}");
    }
    daemon.stop();
}
