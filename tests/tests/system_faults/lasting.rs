//! Calls that fail every time: for good, as under a seccomp profile or on an old kernel, or for a
//! while, as on a host that has run out of something.

use libc::c_long;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::Launch;
use reaper_tests::sys::seccomp::Call;
use reaperd::client::ClientError;
use rustix::io::Errno;

use crate::injection::{Fault, Injection, Since, is_possible};
use crate::scenario::{Outcome, PinnedBy, SocketFile, run_with_fault, run_with_lifted_fault};
use crate::table::{self, Row};

fn lasting(calls: Vec<Call>, errno: Errno, since: Since) -> Fault {
    Fault {
        calls,
        errno,
        since,
        nth: 1,
        lasts: true,
    }
}

#[test]
fn a_call_that_always_fails_is_done_without() {
    use Errno as E;
    if !is_possible() {
        return;
    }
    let cases: [(c_long, &[Errno]); 5] = [
        (
            libc::SYS_pidfd_open,
            &[E::NOSYS, E::PERM, E::MFILE, E::INVAL],
        ),
        (libc::SYS_bpf, &[E::PERM, E::NOSYS]),
        (libc::SYS_setsockopt, &[E::PERM]),
        (libc::SYS_fstatfs, &[E::NOSYS]),
        (libc::SYS_capset, &[E::PERM]),
    ];
    for (call, errnos) in cases {
        for &errno in errnos {
            println!("call {call}: {errno}");
            let fault = lasting(vec![call.into()], errno, Since::Start);
            let outcome = run_with_fault(fault, PinnedBy::Pidfd, &[], SocketFile::Removed);
            assert_eq!(outcome, Outcome::Survived);
        }
    }
    // PIDFD_GET_INFO returns the exit status. Only since `Serving`, because preparing the socket
    // needs an ioctl, too.
    let fault = lasting(vec![libc::SYS_ioctl.into()], E::PERM, Since::Serving);
    let outcome = run_with_fault(fault, PinnedBy::Pidfd, &[], SocketFile::Removed);
    assert_eq!(outcome, Outcome::Survived);
}

/// Tries the first error of each call with everything that processes can be pinned by.
#[test]
fn while_checks_fail_no_live_session_is_removed_and_later_all_dead_ones_are() {
    if !is_possible() {
        return;
    }
    for Row {
        name,
        calls,
        errnos,
        pinned_by,
        ..
    } in table::process_checks()
    {
        let mut has_happened = false;
        for &pinned_by in pinned_by {
            println!("{name}: {}, pinned by {pinned_by:?}", errnos[0]);
            let fault = lasting(calls.clone(), errnos[0], Since::Watching);
            // Some checks do not make this call.
            has_happened |= run_with_lifted_fault(fault, pinned_by);
        }
        let all_available = pinned_by.iter().all(|pinned_by| pinned_by.is_available());
        assert!(has_happened || !all_available, "{name} is never called");
    }
}

/// 256 is the lowest default limit of any system.
#[test]
fn an_unreadable_descriptor_limit_is_assumed_to_be_256() {
    if !is_possible() {
        return;
    }
    let fault = lasting(vec![libc::SYS_prlimit64.into()], Errno::PERM, Since::Start);
    let mut injection = Injection::new(fault);
    let launch = Launch::with(&["--sources", "pidfd"]);
    let mut daemon = launch.spawn_by(|command| injection.spawn(command, &[]));
    daemon.serves();
    daemon.settled("pidfd").unwrap();
    let pidfd = daemon.source("pidfd");
    let log = daemon.log();
    assert!(log.contains("descriptors: limit 256, "), "{log}");
    // Minus what the daemon needs, which grows with its number of threads.
    let budget = pidfd.detail.strip_prefix("budget of ").unwrap();
    let budget: usize = budget
        .strip_suffix(" descriptors")
        .unwrap()
        .parse()
        .unwrap();
    assert!((60..150).contains(&budget), "{}", pidfd.detail);
    daemon.stop();
}

/// After "that is not your process" a client would not try again.
#[test]
fn without_descriptors_a_registration_is_refused_as_not_now_and_succeeds_later() {
    if !is_possible() {
        return;
    }
    let fault = lasting(table::open(), Errno::MFILE, Since::Serving);
    let mut injection = Injection::new(fault);
    let launch = Launch::with(&["--sources", "sweep"]);
    let mut daemon = launch.spawn_by(|command| injection.spawn(command, &[]));
    daemon.serves();
    let crowd = Crowd::start(1).unwrap();
    let pid = crowd.pids().next().unwrap();
    injection.reached(Since::Serving);
    match daemon.try_register("s", pid).map(drop) {
        Err(ClientError::Problem { status, code, .. }) => {
            assert_eq!((status, code.as_str()), (503, "not_now"));
        }
        other => panic!("{other:?}"),
    }
    injection.lift();
    daemon.register("s", pid);
    daemon.stop();
}
