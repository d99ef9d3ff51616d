//! Processes that connect and end, with and without a successor under their pid.

use super::*;
use crate::daemon::api::{PidNs, Transport};
use crate::testkit::fake_table::FakeTable;

const PID: i32 = 77;

fn pid() -> Pid {
    Pid::try_from(PID).unwrap()
}

fn peer(pin: PeerPin) -> Peer {
    Peer {
        transport: Transport::Unix,
        uid: 1_000,
        pid: Some(PID),
        pid_ns: PidNs::Same,
        pin,
    }
}

/// The pins of the process that has the pid now: the strongest first.
fn pins(table: &FakeTable) -> [PeerPin; 3] {
    let pidfd = table.pidfd_open(pid()).unwrap();
    let inode = table.pidfd_inode(pidfd.as_fd()).unwrap();
    [
        PeerPin::PidfdInode(inode),
        by_start_time(Some(PID), table),
        PeerPin::None,
    ]
}

#[test]
fn a_peer_is_alive_until_every_thread_has_ended() {
    let table = FakeTable::with_process(pid(), 5);
    for pin in pins(&table) {
        assert_eq!(peer(pin).check_alive(&table), Ok(()), "{pin:?}");
    }
    table.leader_leaves(pid(), 2);
    for pin in pins(&table) {
        assert_eq!(peer(pin).check_alive(&table), Ok(()), "{pin:?}");
    }
    table.die(pid(), 0);
    let pins = pins(&table);
    for pin in pins {
        let refused = peer(pin).check_alive(&table);
        assert_eq!(refused, Err(Refused::PeerGone), "a zombie, {pin:?}");
    }
    table.reap(pid());
    for pin in pins {
        let refused = peer(pin).check_alive(&table);
        assert_eq!(refused, Err(Refused::PeerGone), "{pin:?}");
    }
}

#[test]
fn a_successor_with_the_pid_is_not_the_peer() {
    let table = FakeTable::with_process(pid(), 5);
    let [by_inode, by_start_time, _] = pins(&table);
    table.die(pid(), 0);
    table.reap(pid());
    table.spawn(pid(), 6);
    for pin in [by_inode, by_start_time] {
        let refused = peer(pin).check_alive(&table);
        assert_eq!(refused, Err(Refused::PeerGone), "{pin:?}");
    }
    // Within one clock tick only the inode number distinguishes the two.
    table.die(pid(), 0);
    table.reap(pid());
    table.spawn(pid(), 5);
    let refused = peer(by_inode).check_alive(&table);
    assert_eq!(refused, Err(Refused::PeerGone));
}

#[test]
fn a_pidfd_that_is_readable_once_is_not_the_end() {
    let table = FakeTable::with_process(pid(), 5);
    let [pin, ..] = pins(&table);
    table.poll_falsely(1);
    assert_eq!(peer(pin).check_alive(&table), Ok(()));
}

#[test]
fn a_check_without_descriptors_is_repeated_and_one_that_is_forbidden_is_replaced() {
    let table = FakeTable::with_process(pid(), 5);
    let [pin, ..] = pins(&table);
    for (errno, expected) in [
        (Errno::MFILE, Err(Refused::NotNow)),
        (Errno::NOMEM, Err(Refused::NotNow)),
        (Errno::INVAL, Err(Refused::NotNow)),
        (Errno::SRCH, Err(Refused::PeerGone)),
        (Errno::PERM, Ok(())),
    ] {
        table.refuse(|refusals| refusals.pidfd_open = Some(errno));
        assert_eq!(peer(pin).check_alive(&table), expected, "{errno}");
    }
    table.refuse(|refusals| refusals.no_inode = true);
    assert_eq!(peer(pin).check_alive(&table), Err(Refused::NotNow));
    table.refuse(|_| {});
    let not_now = peer(PeerPin::NotNow).check_alive(&table);
    assert_eq!(not_now, Err(Refused::NotNow));
    let ended = peer(PeerPin::Ended).check_alive(&table);
    assert_eq!(ended, Err(Refused::PeerGone));
}

#[cfg(target_os = "linux")]
#[test]
fn a_connection_of_this_process_is_pinned_to_it() {
    let table = crate::sys::SystemTable::default();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let pin = Pinning::new(&table).take(&socket, Some(own), &table);
    let itself = Peer {
        pid: Some(own),
        ..peer(pin)
    };
    assert!(
        matches!(pin, PeerPin::PidfdInode(_) | PeerPin::StartTime(_)),
        "{pin:?}"
    );
    assert_eq!(itself.check_alive(&table), Ok(()));
    let sleeper = crate::testing::Sleeper::start();
    let other = Peer {
        pid: Some(sleeper.pid().as_raw()),
        ..itself
    };
    assert_eq!(other.check_alive(&table), Err(Refused::PeerGone));
}
