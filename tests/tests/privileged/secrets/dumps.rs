//! Dumps of the daemon's memory by the kernel and by a debugger.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use reaper_tests::canary::Canary;
use reaper_tests::daemon::{Launch, private_folder};
use reaper_tests::expect::{root_with, skip};
use reaper_tests::memory_scan::places_in;
use reaper_tests::sys::seccomp::{Call, spawn_denied};
use reaper_tests::test_process::TestProcess;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::{PROTECTED, traffic};

/// The daemon sets its limit of core sizes to 0. Here that call has no effect, as if root had raised the
/// limit again.
#[test]
fn an_aborted_daemon_dumps_no_core_even_without_a_limit() {
    if !root_with(&["sh"]) {
        return;
    }
    let limit = getrlimit(Resource::Core);
    if limit.maximum == Some(0) {
        skip("the limit of core sizes is 0 here");
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Core, raised).unwrap();
    let folder = private_folder();
    let enter = format!("cd {} && exec \"$@\"", folder.path().display());
    let launch = Launch::with(&[]).through(&["sh", "-c", &enter, "sh"]);
    let lower = Call::from(libc::SYS_prlimit64).with(1, libc::RLIMIT_CORE);
    let mut daemon = launch.spawn_by(|command| spawn_denied(command, &[(lower, None)]));
    daemon.serves();
    let process = TestProcess::start();
    let stored = traffic::store(&daemon.socket(), process.pid());
    daemon.signal(Signal::ABORT);
    let status = daemon.wait();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped(), "{status:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    drop(stored);
}

#[test]
fn a_core_that_root_takes_with_a_debugger_has_no_key_and_no_token() {
    if !root_with(&["gcore"]) {
        return;
    }
    for kind in PROTECTED {
        let Some(daemon) = kind.start(&[]) else {
            continue;
        };
        let process = TestProcess::start();
        let stored = traffic::store(&daemon.socket(), process.pid());
        let folder = private_folder();
        let output = Command::new("gcore")
            .arg("-o")
            .arg(folder.path().join("core"))
            .arg(daemon.pid().to_string())
            .output()
            .unwrap();
        let core = folder.path().join(format!("core.{}", daemon.pid()));
        let core = fs::read(core).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let places = places_in(&core, &stored.forms(Canary::all_forms));
        assert!(places.is_empty(), "{kind:?}: {places:#?}");
        drop(stored);
        daemon.stop();
    }
}
