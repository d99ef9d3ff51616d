//! Tests of the test processes, which the other tests depend on.

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

/// Gives the cue to exit.
fn exits_with(mut test_process: TestProcess, code: u8) {
    test_process.cue().expect("it reads its cues");
    let status = test_process.wait().expect("it ends");
    assert_eq!(status, ExitStatus::Code(code));
}

#[test]
fn a_test_process_runs_until_its_cue() {
    for (kind, code) in [
        (Kind::Exit { code: 7 }, 7),
        (Kind::Sleep, 0),
        (Kind::ThreadChurn { threads: 3 }, 0),
        (Kind::Hog { megabytes: 2 }, 0),
    ] {
        let mut test_process = spawn(kind);
        assert_eq!(test_process.try_wait().unwrap(), None, "{kind:?}");
        exits_with(test_process, code);
    }
}

#[test]
fn a_test_process_can_be_killed() {
    let mut test_process = spawn(Kind::Sleep);
    test_process.kill().unwrap();
    assert_eq!(test_process.wait().unwrap(), KILLED);
}

#[test]
fn exec_keeps_the_pid() {
    for kind in [Kind::SelfExec, Kind::WorkerExec] {
        let mut test_process = spawn(kind);
        test_process.cue().unwrap();
        test_process
            .expect(&format!("ready {}", test_process.pid()))
            .unwrap();
        exits_with(test_process, 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_runs_without_its_leader_and_exits_with_7() {
    let mut test_process = spawn(Kind::LeaderFirst);
    test_process.cue().unwrap();
    test_process.expect("leader left").unwrap();
    assert_eq!(test_process.try_wait().unwrap(), None);
    exits_with(test_process, 7);
}

#[test]
fn an_orphan_outlives_its_parent() {
    let mut test_process = spawn(Kind::ParentFirst);
    test_process.cue().unwrap();
    test_process.expect("orphaned").unwrap();
    assert_eq!(test_process.wait().unwrap(), KILLED);
    // The orphan is still running and receives its cue.
    test_process.cue().unwrap();
    assert!(
        test_process.read_line().is_err(),
        "the orphan closes its pipe when it exits"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_test_process_gets_the_chosen_pid_or_is_not_started() {
    let mut first = spawn(Kind::Sleep);
    first.kill().unwrap();
    first.wait().unwrap();
    match TestProcess::spawn_at_pid(Path::new(PROGRAM), Kind::Exit { code: 3 }, first.pid()) {
        Ok(second) => {
            assert_eq!(second.pid(), first.pid());
            exits_with(second, 3);
        }
        Err(error) => println!("skip: cannot choose a pid here: {error}"),
    }
}
