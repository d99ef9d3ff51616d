//! `/proc` hides processes, or is not there. The daemon does not take a hidden process for dead,
//! and a process that is pinned by more than its pid is watched without `/proc`.

use std::path::Path;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, doctor_through, has_program, program};
use reaper_tests::expect::skip;
use reaper_tests::sys::seccomp::{Denied, spawn_denied};
use reaper_tests::wait::throughout;
use reaperd::testkit::conformance::kernel_before;
use rustix::io::Errno;

use crate::scenario::{SWEEP, SocketFile, check_removals, stop_cleanly};

// Scripts for a new mount namespace; they execute the command behind them. `$0` is the path of
// setpriv: by its name alone, busybox would run its own setpriv, which cannot change the user.
const HIDDEN: &str = "mount -t proc -o hidepid=2 proc /proc && exec \
    \"$0\" --reuid 65534 --regid 65534 --clear-groups --inh-caps -all --bounding-set -all \"$@\"";
const UNMOUNTED: &str = "umount -l /proc && exec \"$@\"";
const EMPTY: &str = "mount -t tmpfs none /proc && exec \"$@\"";
/// The first kernel on which two mounts of one pid namespace's `/proc` can have different options.
/// Before, the host's own `/proc` would be remounted.
const SEPARATE_MOUNTS: [u32; 2] = [5, 8];

/// The path of setpriv, if these tests can run here. If not, skips with the reason.
fn setpriv_if_possible() -> Option<String> {
    let missing = ["unshare", "mount", "umount"]
        .into_iter()
        .find(|name| !has_program(name));
    let [major, minor] = SEPARATE_MOUNTS;
    let reason = match (missing, program("setpriv")) {
        _ if !rustix::process::geteuid().is_root() => "not root".to_owned(),
        _ if kernel_before(major, minor) => {
            "this kernel shares options among all mounts of /proc".to_owned()
        }
        (Some(name), _) => format!("{name} is not installed"),
        (None, None) => "setpriv is not installed".to_owned(),
        (None, Some(setpriv)) => return Some(setpriv.to_str()?.to_owned()),
    };
    skip(reason);
    None
}

fn shell<'words>(script: &'words str, setpriv: &'words str) -> [&'words str; 6] {
    ["unshare", "--mount", "sh", "-c", script, setpriv]
}

/// With pidfds, and as on a kernel without them.
fn kernels() -> [Vec<Denied>; 2] {
    [
        Vec::new(),
        vec![(libc::SYS_pidfd_open.into(), Some(Errno::NOSYS))],
    ]
}

fn sessions_stay_correct_with(script: &str, user: Option<u32>) {
    let Some(setpriv) = setpriv_if_possible() else {
        return;
    };
    for (sources, denied) in ["auto", "pidfd", "sweep"]
        .into_iter()
        .flat_map(|sources| kernels().map(|denied| (sources, denied)))
    {
        println!("--sources {sources}, {} calls denied", denied.len());
        let sweep = format!("{}ms", SWEEP.as_millis());
        let flags = ["--sources", sources, "--sweep-interval", &sweep];
        // The other policies read the owner of a pid from `/proc`, where it is hidden.
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
        check_removals(&daemon, &controls, || {});
        stop_cleanly(daemon, SocketFile::Removed);
    }
}

#[test]
fn a_proc_that_hides_processes_removes_no_live_session() {
    sessions_stay_correct_with(HIDDEN, Some(65534));
}

#[test]
fn an_unmounted_proc_removes_no_live_session() {
    sessions_stay_correct_with(UNMOUNTED, None);
}

#[test]
fn an_empty_proc_removes_no_live_session() {
    sessions_stay_correct_with(EMPTY, None);
}

#[test]
fn doctor_reports_what_proc_does_not_show() {
    let Some(setpriv) = setpriv_if_possible() else {
        return;
    };
    let cases = [
        (
            HIDDEN,
            "ok",
            "the process table hides other users' processes",
        ),
        (UNMOUNTED, "warn", "the process table shows no process"),
        (EMPTY, "warn", "the process table shows no process"),
    ];
    for (script, verdict, words) in cases {
        let findings = doctor_through(&shell(script, &setpriv), Path::new("/nowhere/s.sock"));
        let is_expected = |finding: &serde_json::Value| {
            finding["subject"] == "sweep"
                && finding["verdict"] == verdict
                && finding["text"].as_str().unwrap().contains(words)
        };
        assert!(findings.iter().any(is_expected), "{findings:#?}");
    }
}
