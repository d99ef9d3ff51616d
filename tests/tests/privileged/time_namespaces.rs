//! The daemon in time namespaces: its clocks are not the host's, on which the kernel takes the times
//! of events.

use std::path::Path;

use reaper_tests::daemon::{Launch, children_of, reaperd};
use reaper_tests::expect;
use reaper_tests::time_namespace::Offsets;
use reaperd::testkit::conformance::kernel_before;
use reaperd::testkit::test_process::{Kind, TestProcess};
use rustix::process::{Signal, kill_process};

use super::{root_with, works};

/// For a source that sends events, deaths of which it must tell one: the look at every process that
/// follows its start may come before it.
const DEATHS: usize = 5;
/// No source takes so long, and the offsets are larger.
const DETECTED_WITHIN_US: u64 = 10_000_000;

#[test]
fn in_a_time_namespace_each_source_tells_of_a_death_with_a_sane_time() {
    if !root_with(&[]) {
        return;
    }
    if kernel_before(5, 6) {
        return expect::skip("this kernel has no time namespaces");
    }
    for offsets in Offsets::all() {
        for source in ["netlink", "ebpf", "pidfd", "sweep"] {
            println!("{offsets:?}, {source}");
            tells_of_a_death(offsets, source);
        }
    }
}

fn tells_of_a_death(offsets: Offsets, source: &str) {
    let interval = if source == "sweep" { "100ms" } else { "1h" };
    let entrance = offsets.through(Path::new(env!("CARGO_BIN_EXE_fork_server")));
    let daemon = Launch::with(&["--sources", source, "--sweep-interval", interval])
        .through(&entrance.each_ref().map(String::as_str))
        .start();
    if !works(&daemon, source) {
        return;
    }
    let mut events = daemon.events();
    let mut sources = Vec::new();
    while sources.last().is_none_or(|last| last != source) {
        assert!(sources.len() < DEATHS, "{source}: told by {sources:?}");
        let session = format!("doomed-{}", sources.len());
        let mut test_process = TestProcess::spawn(reaperd(), Kind::Sleep).unwrap();
        daemon.register(&session, test_process.pid().get());
        test_process.kill().unwrap();
        let told = events.removal_of(&session).told;
        assert_eq!(told.cause, "exited");
        // Only events tell when it was.
        let is_event = ["netlink", "ebpf"].contains(&told.source.as_deref().unwrap());
        match told.detection_us {
            Some(took_us) => assert!((1..DETECTED_WITHIN_US).contains(&took_us), "{told:?}"),
            None => assert!(!is_event, "{told:?}"),
        }
        // The probe's own record is believed, so its start time and its time of death fit.
        if told.source.as_deref() == Some("ebpf") {
            assert_eq!(told.evidence.as_deref(), Some("group_dead"), "{told:?}");
        }
        sources.push(told.source.unwrap());
    }
    drop(events);
    for inside in children_of(daemon.pid()) {
        kill_process(inside, Signal::TERM).unwrap();
    }
    daemon.stopped();
}
