//! Tests of the rules about callers and processes.

use super::*;
use crate::daemon::api::Transport;
use crate::daemon::api::peer_pin::PeerPin;

const ROOT: u32 = 0;
const USER: u32 = 1000;

fn peer(uid: u32, pid: impl Into<Option<i32>>) -> Peer {
    Peer {
        transport: Transport::Unix,
        uid,
        pid: pid.into(),
        pid_ns: PidNs::Same,
        pin: PeerPin::None,
    }
}

#[test]
fn the_record_of_the_process_decides() {
    use RegisterPolicy::{Any, SameUid};
    let pid = Pid::new(4242).unwrap();
    let thread = Err(Refused::ThreadId {
        process: Pid::new(4000).unwrap(),
    });
    // Process and real uid, if the system shows them.
    for (shown, uid, policy, expected) in [
        (Some((4242, USER)), USER, SameUid, Ok(())),
        (Some((4242, ROOT)), USER, SameUid, Err(Refused::OtherUser)),
        (Some((4242, 1001)), USER, SameUid, Err(Refused::OtherUser)),
        (Some((4242, 1001)), USER, Any, Ok(())),
        (Some((4242, 1001)), ROOT, SameUid, Ok(())),
        (Some((4000, USER)), USER, SameUid, thread),
        (Some((4000, USER)), ROOT, Any, thread),
        (None, USER, SameUid, Err(Refused::Hidden)),
        (None, USER, Any, Ok(())),
        (None, ROOT, SameUid, Ok(())),
    ] {
        let stat = shown.map(|(process, real_uid)| ProcessRecord {
            process: Pid::new(process).unwrap(),
            real_uid,
        });
        let checked = check_record(stat, pid, peer(uid, 7), policy);
        assert_eq!(checked, expected, "{shown:?} {uid}");
    }
}

/// Checks a pid before its process is pinned.
fn checked(named: Pid, peer: Peer, policy: RegisterPolicy) -> Result<Pid, Refused> {
    resolve_and_check(named, peer, policy).map(|resolved| resolved.pid)
}

#[test]
fn the_pid_is_checked_before_the_process() {
    use RegisterPolicy::{Any, SameUid, SelfOnly};
    let own = Pid::new(std::process::id()).unwrap();
    let other = Pid::new(own.get() ^ 1).unwrap();
    let user = |pid: Pid| peer(USER, pid.as_raw());
    for (pid, peer, policy, expected) in [
        (own, user(other), Any, Err(Refused::OwnPid)),
        (other, user(other), SelfOnly, Ok(other)),
        (other, user(own), SelfOnly, Err(Refused::NotSelf)),
        (other, peer(ROOT, own.as_raw()), SelfOnly, Ok(other)),
        (other, user(own), SameUid, Ok(other)),
        (other, peer(USER, None), SameUid, Ok(other)),
        (other, peer(USER, None), SelfOnly, Err(Refused::NotSelf)),
        (other, peer(USER, 0), Any, Err(Refused::ForeignPidNamespace)),
        (
            other,
            peer(ROOT, 0),
            SelfOnly,
            Err(Refused::ForeignPidNamespace),
        ),
    ] {
        assert_eq!(checked(pid, peer, policy), expected, "{pid} {policy:?}");
    }
}

#[test]
fn the_init_of_the_machine_is_registered_only_by_itself() {
    let init = Pid::new(1).unwrap();
    let by_init = checked(init, peer(ROOT, 1), RegisterPolicy::SelfOnly);
    assert_eq!(by_init, Ok(init));
    // In a container, pid 1 is an ordinary process.
    let by_others = if is_machines_init() {
        Err(Refused::Init)
    } else {
        Ok(init)
    };
    for uid in [ROOT, USER] {
        let checked = checked(init, peer(uid, 7), RegisterPolicy::Any);
        assert_eq!(checked, by_others);
    }
}

#[test]
fn pids_that_cannot_be_translated_are_refused() {
    use RegisterPolicy::{Any, SameUid};
    let host = Pid::new(4242).unwrap();
    let unknown = Peer {
        pid_ns: PidNs::Unknown,
        ..peer(USER, host.as_raw())
    };
    let foreign = Err(Refused::ForeignPidNamespace);
    assert_eq!(checked(host, unknown, SameUid), foreign);
    assert_eq!(checked(host, unknown, Any), Ok(host));
    let short = Peer {
        pid_ns: PidNs::NotNow,
        ..unknown
    };
    assert_eq!(checked(host, short, SameUid), Err(Refused::NotNow));
    assert_eq!(checked(host, short, Any), Ok(host));
}

#[cfg(target_os = "linux")]
#[test]
fn a_caller_in_a_nested_namespace_is_translated_before_it_is_checked() {
    use RegisterPolicy::{Any, SameUid, SelfOnly};
    let host = Pid::new(4242).unwrap();
    let nested = |uid| Peer {
        pid_ns: PidNs::Nested {
            peer_pid: 1,
            namespace: None,
        },
        ..peer(uid, host.as_raw())
    };
    let init = Pid::new(1).unwrap();
    for policy in [Any, SameUid, SelfOnly] {
        assert_eq!(checked(init, nested(USER), policy), Ok(host));
    }
    // A pid of the daemon's namespace is not one of the caller's. With SelfOnly no other is
    // searched.
    let not_self = checked(host, nested(USER), SelfOnly);
    assert_eq!(not_self, Err(Refused::NotSelf));
    let vanished = Pid::MAX.cast_signed();
    let vanished = Peer {
        pid: Some(vanished),
        pid_ns: PidNs::Nested {
            peer_pid: 1,
            namespace: Some(7),
        },
        ..nested(USER)
    };
    assert_eq!(checked(host, vanished, SameUid), Err(Refused::PeerGone));
}

#[cfg(target_os = "linux")]
#[test]
fn a_thread_id_is_resolved_to_its_process() {
    crate::testing::with_thread(|thread| {
        let stat = stat_by_pid(thread).unwrap().unwrap();
        assert_eq!(stat.process.get(), std::process::id());
        assert_ne!(stat.process, thread);
    });
}
