//! Messages to the connector's socket that do not come from the kernel.

use std::fs;

use reaper_tests::expect::root_with;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::{AddressFamily, SendFlags, SocketType, sendto, socket};
use serde_json::Value;

use super::start_with;

/// How many are sent.
const MESSAGES: u64 = 5;

/// The ports of the sockets of the proc connector, as `/proc/net/netlink` lists them.
fn connector_ports() -> Vec<u32> {
    let table = fs::read_to_string("/proc/net/netlink").unwrap();
    let ports = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, protocol, port, groups, ..] = fields.as_slice() else {
            return None;
        };
        let is_listener = *protocol == "11" && *groups == "00000001";
        is_listener.then(|| port.parse().ok()).flatten()
    });
    ports.collect()
}

/// An exit of this process, or an acknowledgement, which every filter passes.
fn message(what: u32, pid: u32) -> Vec<u8> {
    let header: [u32; 4] = [76, 3, 0, 0];
    let connector: [u32; 5] = [1, 1, 0, 0, 40];
    let event: [u32; 10] = [what, 0, 0, 0, pid, pid, 9, 17, 1, 1];
    let words = header.into_iter().chain(connector).chain(event);
    words.flat_map(u32::to_ne_bytes).collect()
}

#[test]
fn forged_messages_remove_nothing_and_are_counted() {
    if !root_with(&[]) {
        return;
    }
    let before = connector_ports();
    let Some(daemon) = start_with("netlink", "1h") else {
        return;
    };
    let test_process = TestProcess::start();
    daemon.register("live", test_process.pid());
    let ports = connector_ports();
    // Other tests may have daemons too. Their messages are ignored there as well.
    let new = ports.iter().filter(|port| !before.contains(port));
    let forger = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(CONNECTOR)).unwrap();
    for port in new {
        for what in [0, 0x8000_0000] {
            for _ in 0..MESSAGES {
                let message = message(what, test_process.pid());
                let to = SocketAddrNetlink::new(*port, 0);
                sendto(&forger, &message, SendFlags::empty(), &to).unwrap_or_default();
            }
        }
    }
    let health = || daemon.get::<Value>("/v1/health").unwrap()["forged"]["netlink"].clone();
    eventually("they are counted", || health() == 2 * MESSAGES);
    assert_eq!(daemon.source("netlink").forged, 2 * MESSAGES);
    assert!(daemon.lists("live"));
    assert!(daemon.log().contains("did not come from the kernel"));
    daemon.stop();
}
