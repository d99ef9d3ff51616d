//! The daemon in time namespaces: its clocks differ from the host's clocks, which the kernel uses
//! for the times of events.

use std::path::Path;

use reaper_tests::daemon::{Launch, children_of};
use reaper_tests::expect::{root_with, skip};
use reaper_tests::time_namespace::Offsets;
use reaperd::testkit::conformance::kernel_before;
use rustix::process::{Signal, kill_process};

/// One of this many deaths must be found by the source under test. The sweep that its start
/// requests may find the first ones.
const DEATHS: usize = 5;
/// No source takes this long, and the offsets are larger.
const DETECTED_WITHIN_US: u64 = 10_000_000;

#[test]
fn in_a_time_namespace_each_source_reports_a_death_with_a_plausible_time() {
    if !root_with(&[]) {
        return;
    }
    if kernel_before(5, 6) {
        return skip("this kernel has no time namespaces");
    }
    for offsets in Offsets::all() {
        for source in ["netlink", "ebpf", "pidfd", "sweep"] {
            println!("{offsets:?}, {source}");
            check_death_report(offsets, source);
        }
    }
}

fn check_death_report(offsets: Offsets, source: &str) {
    let interval = if source == "sweep" { "100ms" } else { "1h" };
    let prefix = offsets.through(Path::new(env!("CARGO_BIN_EXE_fork_server")));
    let daemon = Launch::with(&["--sources", source, "--sweep-interval", interval])
        .through(&prefix)
        .start();
    if !daemon.has_source(source) {
        return;
    }
    let mut events = daemon.events();
    let mut found_by = Vec::new();
    while found_by.last().is_none_or(|last| last != source) {
        assert!(found_by.len() < DEATHS, "{source}: found by {found_by:?}");
        let session = format!("dying-{}", found_by.len());
        let removal = events.removal_after_kill(&daemon, &session).data;
        assert_eq!(removal.cause, "exited");
        // Only events have a time of death.
        let is_event = ["netlink", "ebpf"].contains(&removal.source.as_deref().unwrap());
        match removal.detection_us {
            Some(took_us) => assert!((1..DETECTED_WITHIN_US).contains(&took_us), "{removal:?}"),
            None => assert!(!is_event, "{removal:?}"),
        }
        // The probe's record was accepted, so its start time and its time of death match.
        if removal.source.as_deref() == Some("ebpf") {
            assert_eq!(
                removal.evidence.as_deref(),
                Some("group_dead"),
                "{removal:?}"
            );
        }
        found_by.push(removal.source.unwrap());
    }
    drop(events);
    for inside in children_of(daemon.started()) {
        kill_process(inside, Signal::TERM).unwrap();
    }
    daemon.stopped();
}
