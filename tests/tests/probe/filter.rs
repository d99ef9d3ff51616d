//! The filter on a real proc connector socket, and the capabilities that each object needs.

use std::{collections::HashSet, env, process::Command, thread};

use aya::{Ebpf, EbpfLoader, maps::HashMap, programs::SocketFilter};
use reaper_ebpf::{filter, objects, probe};
use reaper_tests::connector::{Connector, Operation, ProcEvent};
use reaper_tests::expect::skip_without;
use reaper_tests::wait::eventually;
use reaperd::testkit::test_process::Kind;
use rustix::{
    net::{AddressFamily, SocketType},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use super::loaded::{self, Probe, TestProcess, Variant, chain};

fn loaded(canary: u32) -> Result<Ebpf, String> {
    let mut ebpf = EbpfLoader::new()
        .override_global(filter::globals::CANARY_TGID, &canary, true)
        .load(objects::FILTER)
        .map_err(|e| chain(&e))?;
    program(&mut ebpf).load().map_err(|e| chain(&e))?;
    Ok(ebpf)
}

fn program(ebpf: &mut Ebpf) -> &mut SocketFilter {
    loaded::program(ebpf, filter::PROGRAM)
}

#[test]
fn only_exits_of_watched_processes_and_acknowledgements_pass_the_filter() {
    let mut ebpf = match loaded(std::process::id()) {
        Ok(ebpf) => ebpf,
        Err(reason) => return skip_without("ebpf", reason),
    };
    let connector = match Connector::join() {
        Ok(connector) => connector,
        Err(error) => return skip_without("netlink", format_args!("no connector socket: {error}")),
    };
    program(&mut ebpf).attach(&connector).unwrap();
    match connector.request(Operation::Listen) {
        Ok(acknowledged) => assert!(acknowledged, "the acknowledgement did not pass"),
        Err(error) => return skip_without("netlink", format_args!("cannot subscribe: {error}")),
    }

    let mut watched: HashMap<_, u32, u32> = ebpf
        .take_map(filter::MAP_WATCHED)
        .unwrap()
        .try_into()
        .unwrap();
    let mut test_process = TestProcess::spawn(Kind::Sleep);
    watched.insert(test_process.pid(), 0, 0).unwrap();
    for _ in 0..50 {
        assert!(Command::new("true").status().unwrap().success());
    }
    thread::spawn(|| ()).join().unwrap();
    test_process.kill();

    let mut seen = HashSet::new();
    eventually("our own thread and the test process", || {
        while let Some(event) = connector.receive() {
            match event {
                ProcEvent::Exited(tgid) => drop(seen.insert(tgid)),
                // The kernel multicasts acknowledgements of other listeners' subscriptions, too.
                ProcEvent::Acknowledged(_) => {}
                other => panic!("{other:?} has passed"),
            }
        }
        seen.len() == 2
    });
    assert_eq!(
        seen,
        HashSet::from([test_process.pid(), std::process::id()])
    );
}

/// Set in the new process that [`in_new_process`] starts.
const KEEP: &str = "REAPER_TEST_KEEP";

/// Runs this test again in a new process with fewer capabilities: aya detects the kernel's features
/// once per process, and must do so with these capabilities. Returns true in the new process.
fn in_new_process(test: &str, keep: CapabilitySet) -> bool {
    if env::var_os(KEEP).is_some() {
        let sets = CapabilitySets {
            effective: keep,
            permitted: keep,
            inheritable: keep,
        };
        set_capabilities(None, sets).unwrap();
        return true;
    }
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(KEEP, "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

/// Whether this process has the capabilities that the tests need.
fn privileged() -> bool {
    let effective = rustix::thread::capabilities(None).unwrap().effective;
    let needed = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let yes = env::var_os(KEEP).is_some() || effective.contains(needed);
    if !yes {
        skip_without("ebpf", "neither root nor CAP_BPF and CAP_PERFMON");
    }
    yes
}

#[test]
fn the_filter_needs_cap_bpf_alone() {
    let test = "filter::the_filter_needs_cap_bpf_alone";
    if !privileged() || !in_new_process(test, CapabilitySet::BPF) {
        return;
    }
    let mut ebpf = loaded(0).unwrap();
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    program(&mut ebpf).attach(&socket).unwrap();
    let refused = Probe::try_attached(Variant::Btf, probe::DEFAULT_WAKEUP_BYTES).err();
    println!("the probe with CAP_BPF alone: {refused:?}");
    assert!(refused.is_some());
}

#[test]
fn the_probe_needs_cap_bpf_and_cap_perfmon() {
    let test = "filter::the_probe_needs_cap_bpf_and_cap_perfmon";
    if !privileged() || !in_new_process(test, CapabilitySet::BPF | CapabilitySet::PERFMON) {
        return;
    }
    Probe::try_attached(Variant::Btf, probe::DEFAULT_WAKEUP_BYTES).unwrap();
}
