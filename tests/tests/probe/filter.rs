//! The filter on a real proc connector socket, and which capability each object asks for.

use std::{collections::HashSet, env, io, os::fd::OwnedFd, process::Command, thread};

use aya::{Ebpf, EbpfLoader, maps::HashMap, programs::SocketFilter};
use reaper_ebpf::{filter, objects, probe};
use reaper_user::victims::Kind;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use super::loaded::{Probe, Variant, Victim, chain, eventually, skip};

const EXIT: u32 = 0x8000_0000;

fn loaded(canary: u32) -> Result<Ebpf, String> {
    let mut ebpf = EbpfLoader::new()
        .override_global(filter::globals::CANARY_TGID, &canary, true)
        .load(objects::FILTER)
        .map_err(|e| chain(&e))?;
    program(&mut ebpf).load().map_err(|e| chain(&e))?;
    Ok(ebpf)
}

fn program(ebpf: &mut Ebpf) -> &mut SocketFilter {
    ebpf.program_mut(filter::PROGRAM)
        .unwrap()
        .try_into()
        .unwrap()
}

/// A connector socket in the group of process events; nothing is sent yet.
fn connector() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(netlink::CONNECTOR),
    )?;
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

/// Asks for all events. The reply's ack number is `ack` + 1.
fn listen(socket: &OwnedFd, ack: u32) -> io::Result<()> {
    let netlink_header = [40_u32, 3, 0, 0];
    let connector_header = [1_u32, 1, 0, ack, 4];
    let listen = 1_u32;
    let message: Vec<u8> = netlink_header
        .iter()
        .chain(&connector_header)
        .chain([&listen])
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    rustix::net::send(socket, &message, SendFlags::empty())?;
    Ok(())
}

/// One event as (what, tgid of an exit, ack number).
fn receive(socket: &OwnedFd) -> Option<(u32, u32, u32)> {
    let mut buffer = [0; 256];
    match rustix::net::recv(socket, &mut buffer, RecvFlags::empty()) {
        Ok((len, _)) => {
            assert!(
                len >= 76,
                "{len} bytes, but the filter never shortens a message"
            );
            let word = |at: usize| u32::from_ne_bytes(*buffer[at..].first_chunk().unwrap());
            Some((word(36), word(56), word(28)))
        }
        Err(Errno::AGAIN) => None,
        Err(error) => panic!("recv: {error}"),
    }
}

#[test]
fn only_watched_exits_and_acks_pass() {
    let mut ebpf = match loaded(std::process::id()) {
        Ok(ebpf) => ebpf,
        Err(reason) => return skip("ebpf", &reason),
    };
    let socket = match connector() {
        Ok(socket) => socket,
        Err(error) => return skip("netlink", &format!("no connector socket: {error}")),
    };
    program(&mut ebpf).attach(&socket).unwrap();
    if let Err(error) = listen(&socket, 76) {
        return skip("netlink", &format!("cannot subscribe: {error}"));
    }
    let mut acked = false;
    eventually("the ack", || {
        acked |= receive(&socket).is_some_and(|(what, _, ack)| (what, ack) == (0, 77));
        acked
    });

    let mut watched: HashMap<_, u32, u32> = ebpf
        .take_map(filter::MAP_WATCHED)
        .unwrap()
        .try_into()
        .unwrap();
    let mut victim = Victim::spawn(Kind::Sleep);
    watched.insert(victim.pid(), 0, 0).unwrap();
    for _ in 0..50 {
        assert!(Command::new("true").status().unwrap().success());
    }
    thread::spawn(|| ()).join().unwrap();
    victim.kill();

    let mut seen = HashSet::new();
    eventually("our own thread and the victim", || {
        while let Some((what, tgid, _)) = receive(&socket) {
            // Other listeners' subscriptions are acknowledged to everybody.
            if what != 0 {
                assert_eq!(what, EXIT);
                seen.insert(tgid);
            }
        }
        seen.len() == 2
    });
    assert_eq!(seen, HashSet::from([victim.pid(), std::process::id()]));
}

/// Which capabilities the copy of this test that runs in a process of its own keeps.
const KEEP: &str = "REAPER_TEST_KEEP";

/// Runs one test of this binary again in a new process, because aya looks at the kernel once per
/// process and must do so with the few capabilities. True in that process.
fn alone(test: &str, keep: CapabilitySet) -> bool {
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

/// Whether this process can hand out capabilities at all.
fn privileged() -> bool {
    let effective = rustix::thread::capabilities(None).unwrap().effective;
    let needed = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let yes = env::var_os(KEEP).is_some() || effective.contains(needed);
    if !yes {
        skip("ebpf", "neither root nor CAP_BPF and CAP_PERFMON");
    }
    yes
}

#[test]
fn the_filter_needs_cap_bpf_alone() {
    let test = "filter::the_filter_needs_cap_bpf_alone";
    if !privileged() || !alone(test, CapabilitySet::BPF) {
        return;
    }
    let mut ebpf = loaded(0).unwrap();
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    program(&mut ebpf).attach(&socket).unwrap();
    let refused = Probe::try_attached(Variant::Btf, probe::DEFAULT_DOORBELL_BYTES).err();
    println!("the probe with CAP_BPF alone: {refused:?}");
    assert!(refused.is_some());
}

#[test]
fn the_probe_needs_cap_bpf_and_cap_perfmon() {
    let test = "filter::the_probe_needs_cap_bpf_and_cap_perfmon";
    if !privileged() || !alone(test, CapabilitySet::BPF | CapabilitySet::PERFMON) {
        return;
    }
    Probe::try_attached(Variant::Btf, probe::DEFAULT_DOORBELL_BYTES).unwrap();
}
