//! Processes that are not children of `reaperd wait`, and whose ends are harder to see than an exit of the only
//! thread.

use reaper_tests::scale::scaled;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;
use reaperd::testkit::test_process::Kind;
use rustix::process::{Pid, Signal, kill_process};

use super::{holds_pidfd, keeps_exit_status, wait_for};
use crate::{CommandOutput, json};

const KILLED: i32 = 128 + 9;

/// How a process lives on, and how it ends.
struct Way {
    kind: Kind,
    lives_on: fn(&mut TestProcess),
    ends: fn(&mut TestProcess),
    code: i32,
}

const WAYS: [Way; 7] = [
    Way {
        kind: Kind::LeaderFirst,
        lives_on: |process| cue_and_expect(process, "leader left"),
        ends: TestProcess::finish,
        code: 7,
    },
    Way {
        kind: Kind::WorkerExec,
        lives_on: executes,
        ends: is_killed,
        code: KILLED,
    },
    Way {
        kind: Kind::SelfExec,
        lives_on: executes,
        ends: is_killed,
        code: KILLED,
    },
    Way {
        kind: Kind::ParentFirst,
        lives_on: |process| cue_and_expect(process, "orphaned"),
        ends: TestProcess::cue,
        code: 0,
    },
    Way {
        kind: Kind::ThreadChurn { threads: 8 },
        lives_on: |process| process.expect("churned"),
        ends: is_killed,
        code: KILLED,
    },
    Way {
        kind: Kind::Sleep,
        lives_on: |process| signal(process, Signal::STOP),
        ends: is_killed,
        code: KILLED,
    },
    Way {
        kind: Kind::Exit { code: 3 },
        lives_on: |process| {
            signal(process, Signal::STOP);
            signal(process, Signal::CONT);
        },
        ends: TestProcess::finish,
        code: 3,
    },
];

fn cue_and_expect(process: &mut TestProcess, line: &str) {
    process.cue();
    process.expect(line);
}

fn executes(process: &mut TestProcess) {
    let line = format!("ready {}", process.pid());
    cue_and_expect(process, &line);
}

fn is_killed(process: &mut TestProcess) {
    process.kill();
    process.reap();
}

fn signal(process: &mut TestProcess, signal: Signal) {
    let pid = Pid::from_raw(process.pid().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn ends_behind_a_left_main_thread_an_exec_a_dead_parent_or_a_stop_have_their_status() {
    if !keeps_exit_status() {
        println!("skipped: before Linux 6.15 the kernel keeps no exit status in a pidfd");
        return;
    }
    let mut right = 0;
    for _ in 0..scaled(15, 1) {
        for way in &WAYS {
            let mut process = TestProcess::spawn(way.kind);
            let mut waiter = wait_for(&[&process.pid().to_string()]);
            eventually("it waits", || holds_pidfd(waiter.id()));
            (way.lives_on)(&mut process);
            assert_eq!(waiter.try_wait().unwrap(), None, "{:?} lives", way.kind);
            (way.ends)(&mut process);
            let output = CommandOutput::by(waiter.wait_with_output().unwrap());
            assert_eq!(output.code, Some(way.code), "{:?}: {output:?}", way.kind);
            assert_eq!(json(&output.out)["cause"], "exited", "{output:?}");
            right += 1;
        }
    }
    println!("{right} processes, {right} right statuses");
}
