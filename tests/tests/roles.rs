//! The daemon in each role: which sources work, why the others do not, and that every death is told
//! all the same. What is expected of a kernel and role is in `xtask/src/vm/matrix.rs`; outside a
//! guest nothing is, and what is said is printed.
#![cfg(target_os = "linux")]

use reaper_tests::daemon::{TestDaemon, doctor_through, reaperd};
use reaper_tests::expect;
use reaper_user::victims::{Kind, Victim};
use serde_json::Value;

const EVENT_SOURCES: [&str; 3] = ["netlink", "ebpf", "pidfd"];

/// No end is left to the sweep.
const NO_SWEEP: [&str; 4] = ["--sources", "auto", "--sweep-interval", "60s"];

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
    let daemon = TestDaemon::start(&NO_SWEEP);
    let working = working(&daemon);
    let mut events = daemon.events();
    for round in 0..5 {
        let session = format!("doomed-{round}");
        let mut victim = Victim::spawn(reaperd(), Kind::Sleep).unwrap();
        let token = daemon.register(&session, victim.pid().get());
        assert!(daemon.accepts(&token));
        victim.kill().unwrap();
        let told = events.removal_of(&session).told;
        assert_eq!(told.cause, "exited");
        let source = told.source.as_deref().unwrap();
        assert!(working.contains(&source), "{told:?}, and {working:?} work");
        assert!(!daemon.accepts(&token));
    }
    drop(events);
    daemon.stop();
}

#[test]
fn doctor_agrees_and_has_a_remedy_for_what_does_not_work() {
    let daemon = TestDaemon::start(&NO_SWEEP);
    let working = working(&daemon);
    let findings = doctor_through(&[], &daemon.socket());
    for source in EVENT_SOURCES {
        let of_it = |finding: &&Value| finding["subject"] == source;
        let finding = findings.iter().find(of_it).unwrap();
        println!("{finding}");
        // It may work with a limit, such as a buffer that may not be larger.
        let is_down = finding["verdict"] == "warn" && finding["remedy"] != "";
        assert!(working.contains(&source) || is_down, "{finding}");
        assert!(finding["verdict"] != "fail", "{finding}");
    }
    daemon.stop();
}
