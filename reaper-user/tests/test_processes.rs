//! Test processes do what their kind says: everything that is tested with them stands on that.

use std::path::Path;

use reaper_registry::ExitStatus;
use reaperd::testkit::test_process::{Kind, TestProcess};

const PROGRAM: &str = env!("CARGO_BIN_EXE_reaperd");
const KILLED: ExitStatus = ExitStatus::Signal {
    signal: 9,
    core: false,
};

fn spawn(kind: Kind) -> TestProcess {
    TestProcess::spawn(Path::new(PROGRAM), kind).expect("a test process starts")
}

#[test]
fn plain_ones_live_until_their_cue() {
    for (kind, code) in [
        (Kind::Exit { code: 7 }, 7),
        (Kind::Sleep, 0),
        (Kind::ThreadChurn { threads: 3 }, 0),
        (Kind::Hog { megabytes: 2 }, 0),
    ] {
        let mut test_process = spawn(kind);
        assert_eq!(test_process.try_wait().unwrap(), None, "{kind:?}");
        test_process.cue().unwrap();
        assert_eq!(
            test_process.wait().unwrap(),
            ExitStatus::Code(code),
            "{kind:?}"
        );
    }
}

#[test]
fn any_can_be_killed() {
    let mut test_process = spawn(Kind::Sleep);
    test_process.kill().unwrap();
    assert_eq!(test_process.wait().unwrap(), KILLED);
}

#[test]
fn one_that_executes_keeps_its_pid() {
    for kind in [Kind::SelfExec, Kind::WorkerExec] {
        let mut test_process = spawn(kind);
        test_process.cue().unwrap();
        test_process
            .expect(&format!("ready {}", test_process.pid()))
            .unwrap();
        test_process.cue().unwrap();
        assert_eq!(
            test_process.wait().unwrap(),
            ExitStatus::Code(0),
            "{kind:?}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_goes_on_without_its_leader_and_ends_with_7() {
    let mut test_process = spawn(Kind::LeaderFirst);
    test_process.cue().unwrap();
    test_process.expect("leader left").unwrap();
    assert_eq!(test_process.try_wait().unwrap(), None);
    test_process.cue().unwrap();
    assert_eq!(test_process.wait().unwrap(), ExitStatus::Code(7));
}

#[test]
fn an_orphan_outlives_its_parent() {
    let mut test_process = spawn(Kind::ParentFirst);
    test_process.cue().unwrap();
    test_process.expect("orphaned").unwrap();
    assert_eq!(test_process.wait().unwrap(), KILLED);
    // It is still there to be told.
    test_process.cue().unwrap();
    assert!(
        test_process.hear().is_err(),
        "an orphan that ends closes its pipe"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_chosen_pid_is_had_or_refused_but_never_another() {
    let mut first = spawn(Kind::Sleep);
    first.kill().unwrap();
    first.wait().unwrap();
    match TestProcess::spawn_at_pid(Path::new(PROGRAM), Kind::Exit { code: 3 }, first.pid()) {
        Ok(mut second) => {
            assert_eq!(second.pid(), first.pid());
            second.cue().unwrap();
            assert_eq!(second.wait().unwrap(), ExitStatus::Code(3));
        }
        Err(error) => println!("skip: no process under a chosen pid here: {error}"),
    }
}
