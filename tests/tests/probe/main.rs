//! The exit probe and the connector filter on the real kernel, loaded as the daemon loads them.
//!
//! The tests need root or the BPF capabilities. Without them each test prints the reason and
//! passes, unless `REAPER_REQUIRE` lists `ebpf` (for the filter's traffic: `netlink`).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test helpers may panic; skip reasons are printed"
)]

mod classic;
mod filter;
mod loaded;

use std::{collections::HashSet, process::Command, thread};

use loaded::{Probe, TestProcess, Variant, stat_field};
use reaper_ebpf::{Counter, GroupDeath, WatchEntry, probe};
use reaper_tests::wait::eventually;
use reaperd::testkit::clock::monotonic_ns;
use reaperd::testkit::test_process::Kind;

fn attached() -> Option<Probe> {
    Probe::attached(Variant::Btf, probe::DEFAULT_WAKEUP_BYTES)
}

/// Starts a test process that the probe watches.
fn watched(probe: &mut Probe, kind: Kind) -> TestProcess {
    let test_process = TestProcess::spawn(kind);
    probe.watch(test_process.pid(), test_process.start_ticks());
    test_process
}

fn death_of(probe: &Probe, test_process: &TestProcess) -> Option<GroupDeath> {
    let pid = test_process.pid();
    probe.entry(pid).death(pid)
}

/// Checks that the probe has neither marked the process nor sent a record.
fn check_no_death(probe: &mut Probe, test_process: &TestProcess) {
    assert_eq!(
        probe.entry(test_process.pid()),
        WatchEntry::watching(test_process.start_ticks())
    );
    assert_eq!(probe.drain(), []);
}

/// Checks that a kill is marked in the map and sent to the ring once, with exit code, start time
/// and time of death.
fn check_kill_is_marked(probe: &mut Probe) {
    let mut test_process = watched(probe, Kind::Sleep);
    assert_eq!(death_of(probe, &test_process), None);
    let before = monotonic_ns();
    test_process.kill();
    eventually("the mark", || death_of(probe, &test_process).is_some());
    let death = death_of(probe, &test_process).unwrap();
    assert_eq!(
        death,
        GroupDeath {
            tgid: test_process.pid(),
            exit_code: 9,
            start_ticks: test_process.start_ticks(),
            died_at_ns: death.died_at_ns,
        }
    );
    assert!((before..monotonic_ns()).contains(&death.died_at_ns));
    println!(
        "killed to marked: {} us",
        (death.died_at_ns - before) / 1000
    );
    let mut records = Vec::new();
    eventually("the wake-up", || {
        records.extend(probe.drain());
        !records.is_empty()
    });
    assert_eq!(records, [death]);
    assert_eq!(probe.count(Counter::Marked), 1);
    assert_eq!(probe.count(Counter::RingFull), 0);
}

#[test]
fn a_killed_process_is_marked_with_code_and_time() {
    let Some(mut probe) = attached() else { return };
    check_kill_is_marked(&mut probe);
}

#[test]
fn an_ordinary_exit_is_marked_with_its_status() {
    let Some(mut probe) = attached() else { return };
    let mut test_process = watched(&mut probe, Kind::Exit { code: 7 });
    test_process.finish();
    let death =
        death_of(&probe, &test_process).expect("a process is marked before it can be reaped");
    assert_eq!(death.exit_code, 7 << 8);
}

#[test]
fn a_leader_that_exits_first_is_not_a_death() {
    let Some(mut probe) = attached() else { return };
    let mut test_process = watched(&mut probe, Kind::LeaderFirst);
    test_process.cue();
    test_process.expect("leader left");
    assert_eq!(stat_field(test_process.pid(), 3).unwrap(), "Z");
    check_no_death(&mut probe, &test_process);
    test_process.finish();
    let death = death_of(&probe, &test_process).expect("the last thread has ended");
    // Before 6.1 the exit code is the leader's: 0.
    assert!([7 << 8, 0].contains(&death.exit_code), "{death:?}");
    assert_eq!(probe.drain(), [death]);
}

#[test]
fn exec_by_a_worker_is_not_a_death() {
    let Some(mut probe) = attached() else { return };
    let mut test_process = watched(&mut probe, Kind::WorkerExec);
    test_process.cue();
    test_process.expect(&format!("ready {}", test_process.pid()));
    check_no_death(&mut probe, &test_process);
    test_process.finish();
    let death = death_of(&probe, &test_process).expect("the start time is the same after exec");
    assert_eq!(death.exit_code, 0);
}

#[test]
fn thread_exits_of_a_watched_process_send_no_record() {
    let Some(mut probe) = attached() else { return };
    let mut test_process = watched(&mut probe, Kind::ThreadChurn { threads: 8 });
    test_process.expect("churned");
    check_no_death(&mut probe, &test_process);
    test_process.finish();
    assert_eq!(probe.drain().len(), 1);
}

#[test]
fn a_death_with_another_start_time_sends_a_record_but_is_not_marked() {
    let Some(mut probe) = attached() else { return };
    let mut test_process = TestProcess::spawn(Kind::Sleep);
    let pid = test_process.pid();
    probe.watch(pid, test_process.start_ticks() - 1);
    test_process.finish();
    assert_eq!(
        probe.entry(pid),
        WatchEntry::watching(test_process.start_ticks() - 1)
    );
    assert_eq!(
        [Counter::Marked, Counter::Mismatched].map(|c| probe.count(c)),
        [0, 1]
    );
    let records: Vec<_> = probe
        .drain()
        .iter()
        .map(|death| (death.tgid, death.start_ticks))
        .collect();
    assert_eq!(records, [(pid, test_process.start_ticks())]);
}

#[test]
fn exits_of_unwatched_processes_do_not_wake_the_reader() {
    let Some(mut probe) = attached() else { return };
    for _ in 0..100 {
        assert!(Command::new("true").status().unwrap().success());
    }
    assert_eq!(probe.drain(), []);
    assert_eq!(
        [Counter::Marked, Counter::Mismatched].map(|c| probe.count(c)),
        [0, 0]
    );
}

#[test]
fn a_canary_thread_is_counted_and_sends_no_record() {
    let Some(mut probe) = attached() else { return };
    let before = probe.count(Counter::Canary);
    thread::spawn(|| ()).join().unwrap();
    eventually("the canary", || probe.count(Counter::Canary) > before);
    assert_eq!(probe.drain(), []);
}

#[test]
fn with_a_full_ring_every_death_is_still_marked() {
    let page = u32::try_from(rustix::param::page_size()).unwrap();
    let Some(mut probe) = Probe::attached(Variant::Btf, page) else {
        return;
    };
    let start = || watched(&mut probe, Kind::Sleep);
    let mut test_processes: Vec<_> = std::iter::repeat_with(start).take(300).collect();
    test_processes.iter_mut().for_each(TestProcess::kill);
    test_processes.iter_mut().for_each(TestProcess::reap);
    let is_unmarked = |test_process: &&TestProcess| death_of(&probe, test_process).is_none();
    let unmarked = test_processes.iter().filter(is_unmarked).count() as u64;
    assert!(unmarked <= probe.misses(), "{unmarked} are not marked");
    let records: HashSet<u32> = probe.drain().iter().map(|death| death.tgid).collect();
    let [marked, overflowed] = [Counter::Marked, Counter::RingFull].map(|c| probe.count(c));
    println!(
        "{} records, {overflowed} did not fit, {unmarked} missed by the kernel",
        records.len()
    );
    assert!(overflowed > 0, "the ring was large enough for all records");
    assert_eq!(records.len() as u64 + overflowed, marked);
    assert_eq!(marked, test_processes.len() as u64 - unmarked);
}
