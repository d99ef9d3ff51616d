//! Calls that fail every time: from the start and for good, as a seccomp profile or an old kernel has
//! it, or for a while, as a host does that has run out of something.

use libc::c_long;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::Launch;
use reaper_tests::sys::seccomp::Call;
use reaperd::client::ClientError;
use rustix::io::Errno;

use crate::injection::{Fault, Injection, Since, is_possible};
use crate::life::{Footing, Outcome, SocketFile, outlives, under};
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
fn what_fails_from_the_start_is_done_without() {
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
            let outcome = under(fault, Footing::Pidfd, &[], SocketFile::Removed);
            assert_eq!(outcome, Outcome::Survived);
        }
    }
    // The exit status of a pidfd; before that, a socket is made ready by the same call.
    let fault = lasting(vec![libc::SYS_ioctl.into()], E::PERM, Since::Serving);
    let outcome = under(fault, Footing::Pidfd, &[], SocketFile::Removed);
    assert_eq!(outcome, Outcome::Survived);
}

/// The first errors of a host in need are tried on every way to look at a process.
#[test]
fn what_fails_for_a_while_costs_no_living_session_and_is_made_up_for() {
    if !is_possible() {
        return;
    }
    for Row {
        name,
        calls,
        errnos,
        footings,
        ..
    } in table::looks()
    {
        let mut has_struck = false;
        for &footing in footings {
            println!("{name}: {} on {footing:?}", errnos[0]);
            let fault = lasting(calls.clone(), errnos[0], Since::Watching);
            // Some ways to look do without this call.
            has_struck |= outlives(fault, footing);
        }
        let are_all_had = footings.iter().all(|footing| footing.is_to_be_had());
        assert!(has_struck || !are_all_had, "{name} is never called");
    }
}

/// The lowest one that systems come with.
#[test]
fn a_limit_of_descriptors_that_cannot_be_read_is_taken_for_a_low_one() {
    if !is_possible() {
        return;
    }
    let fault = lasting(vec![libc::SYS_prlimit64.into()], Errno::PERM, Since::Start);
    let mut injection = Injection::new(fault);
    let launch = Launch::with(&["--sources", "pidfd"]);
    let mut daemon = launch.spawn_by(|command| injection.spawn(command, &[]));
    daemon.serves();
    daemon.settled("pidfd").unwrap();
    let sources = daemon.sources().sources;
    let pidfd = sources.iter().find(|one| one.source == "pidfd").unwrap();
    let log = daemon.log();
    assert!(log.contains("descriptors: limit 256, "), "{log}");
    // Less what the daemon needs, which is more with every thread.
    let budget = pidfd.detail.strip_prefix("budget of ").unwrap();
    let budget: usize = budget
        .strip_suffix(" descriptors")
        .unwrap()
        .parse()
        .unwrap();
    assert!((60..150).contains(&budget), "{}", pidfd.detail);
    daemon.stop();
}

/// Once told "that is not your process" a client would not ask again.
#[test]
fn a_shortage_refuses_a_registration_for_now_and_not_for_good() {
    if !is_possible() {
        return;
    }
    let fault = lasting(table::open(), Errno::MFILE, Since::Serving);
    let mut injection = Injection::new(fault);
    let launch = Launch::with(&["--sources", "sweep"]);
    let mut daemon = launch.spawn_by(|command| injection.spawn(command, &[]));
    daemon.serves();
    let living = Crowd::start(1).unwrap();
    let pid = living.pids().next().unwrap();
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
