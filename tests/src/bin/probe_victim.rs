//! A process with a talent for awkward deaths, for the probe's tests. It does its trick at the first
//! byte of its standard input, so that it can be watched before, and ends with status 7 at the end.
#![expect(
    unsafe_code,
    reason = "leaving a process thread by thread has no safe door"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a victim has no destructors worth running"
)]

use std::{
    env,
    io::{self, Read},
    os::unix::process::CommandExt,
    process, thread,
};

fn main() {
    match env::args().nth(1).as_deref() {
        Some("leader-first") => at_cue(leader_first),
        Some("worker-exec") => at_cue(worker_exec),
        Some("churn") => at_cue(churn),
        _ => die_at_end_of_input(),
    }
}

fn at_cue(trick: fn() -> !) -> ! {
    io::stdin()
        .read_exact(&mut [0])
        .expect("a cue before the end of input");
    trick()
}

fn die_at_end_of_input() -> ! {
    drop(io::copy(&mut io::stdin(), &mut io::sink()));
    process::exit(7)
}

/// The main thread leaves with another status; a second thread stays.
fn leader_first() -> ! {
    thread::spawn(|| die_at_end_of_input());
    // SAFETY: ends this thread only and takes no pointer.
    unsafe { libc::syscall(libc::SYS_exit, 4) };
    unreachable!("the thread has left")
}

/// A worker replaces the program, which kills the main thread and keeps the process.
fn worker_exec() -> ! {
    let program = env::current_exe().expect("/proc is mounted");
    let worker = thread::spawn(|| process::Command::new(program).arg("replaced").exec());
    panic!("exec failed: {:?}", worker.join());
}

/// Threads come and go, then the process waits.
fn churn() -> ! {
    for _ in 0..2000 {
        thread::spawn(|| ())
            .join()
            .expect("an empty thread does not panic");
    }
    process::Command::new("true")
        .status()
        .expect("true(1) exists");
    thread::Builder::new()
        .name("churned".into())
        .spawn(|| die_at_end_of_input())
        .expect("a thread");
    loop {
        thread::park();
    }
}
