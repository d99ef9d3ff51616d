//! `/proc` shows less than it should, or is not there. What the daemon cannot see it does not take for
//! dead; and what holds a process by more than its number needs no `/proc`.

use std::path::Path;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, doctor_through, has_program, program};
use reaper_tests::expect::skip;
use reaper_tests::wait::throughout;
use reaperd::testkit::conformance::kernel_before;
use rustix::io::Errno;

use crate::injection::{Denied, spawn_denied};
use crate::life::{SWEEP, SocketFile, stops_in_order, the_dead_go_and_the_living_stays};

/// In a mount namespace of their own; the rest of the command follows. `$0` is where setpriv is: by
/// its name alone, busybox would take its own, which cannot change the user.
const HIDDEN: &str = "mount -t proc -o hidepid=2 proc /proc && exec \
    \"$0\" --reuid 65534 --regid 65534 --clear-groups --inh-caps -all --bounding-set -all \"$@\"";
const UNMOUNTED: &str = "umount -l /proc && exec \"$@\"";
const EMPTY: &str = "mount -t tmpfs none /proc && exec \"$@\"";
/// The first kernel on which two mounts of one pid namespace's `/proc` may differ: before, the host's
/// own would be remounted.
const SEPARATE_MOUNTS: [u32; 2] = [5, 8];

/// Where setpriv is, if all of this is possible here; else says why it is not.
fn setpriv_if_possible() -> Option<String> {
    let missing = ["unshare", "mount", "umount"]
        .into_iter()
        .find(|name| !has_program(name));
    let [major, minor] = SEPARATE_MOUNTS;
    let reason = match (missing, program("setpriv")) {
        _ if !rustix::process::geteuid().is_root() => "not root".to_owned(),
        _ if kernel_before(major, minor) => "this kernel has one /proc for all mounts".to_owned(),
        (Some(name), _) => format!("no {name} here"),
        (None, None) => "no setpriv here".to_owned(),
        (None, Some(setpriv)) => return Some(setpriv.to_str()?.to_owned()),
    };
    skip(reason);
    None
}

fn shell<'words>(script: &'words str, setpriv: &'words str) -> [&'words str; 6] {
    ["unshare", "--mount", "sh", "-c", script, setpriv]
}

/// Which identities can be had is up to the kernel alone: with pidfds, and as before they came.
fn footings() -> [Vec<Denied>; 2] {
    [
        Vec::new(),
        vec![(libc::SYS_pidfd_open.into(), Some(Errno::NOSYS))],
    ]
}

fn holds_its_promises_where(script: &str, user: Option<u32>) {
    let Some(setpriv) = setpriv_if_possible() else {
        return;
    };
    for (sources, denied) in ["auto", "pidfd", "sweep"]
        .into_iter()
        .flat_map(|sources| footings().map(|denied| (sources, denied)))
    {
        println!("--sources {sources}, {} denied", denied.len());
        let sweep = format!("{}ms", SWEEP.as_millis());
        let flags = ["--sources", sources, "--sweep-interval", &sweep];
        // Whose number a caller names is read in `/proc`, and is unknown here.
        let any = ["--register-policy", "any"];
        let launch =
            Launch::with(&[flags.as_slice(), &any].concat()).through(&shell(script, &setpriv));
        let launch = user.into_iter().fold(launch, Launch::for_user);
        let mut daemon = launch.spawn_by(|command| spawn_denied(command, &denied));
        daemon.serves();
        let controls = Crowd::start(2).unwrap();
        daemon.register_all(controls.pids());
        throughout(6 * SWEEP, || {
            assert_eq!(daemon.list().len(), 2, "a false death\n{}", daemon.log());
        });
        the_dead_go_and_the_living_stays(&daemon, &controls, || {});
        stops_in_order(daemon, SocketFile::Removed);
    }
}

#[test]
fn a_hidden_proc_costs_nobody_a_session() {
    holds_its_promises_where(HIDDEN, Some(65534));
}

#[test]
fn an_unmounted_proc_costs_nobody_a_session() {
    holds_its_promises_where(UNMOUNTED, None);
}

#[test]
fn an_empty_proc_costs_nobody_a_session() {
    holds_its_promises_where(EMPTY, None);
}

#[test]
fn doctor_says_what_proc_does_not_show() {
    let Some(setpriv) = setpriv_if_possible() else {
        return;
    };
    let cases = [
        (HIDDEN, "the process table hides other users' processes"),
        (UNMOUNTED, "the process table shows no process"),
        (EMPTY, "the process table shows no process"),
    ];
    for (script, words) in cases {
        let findings = doctor_through(&shell(script, &setpriv), Path::new("/nowhere/s.sock"));
        let says_so = |finding: &serde_json::Value| {
            finding["subject"] == "sweep" && finding["text"].as_str().unwrap().contains(words)
        };
        assert!(findings.iter().any(says_so), "{findings:#?}");
    }
}
