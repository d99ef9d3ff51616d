//! What happens around the moment at which a watch begins.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests, and how many kills came first"
)]

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use reaper_tests::wait::{Deadline, eventually};
use reaper_user::victims::Kind;

use crate::stage::{KILLED, Stage};

pub(crate) fn ended_before(stage: &Stage) {
    let mut reaped = Stage::victim(Kind::Sleep);
    reaped.kill().unwrap();
    reaped.wait().unwrap();
    assert!(stage.try_watch(reaped.pid()).is_none());

    // Its number is taken until somebody reaps it, but every thread has ended.
    let mut zombie = Stage::victim(Kind::Sleep);
    let first = stage.watch(&zombie);
    zombie.kill().unwrap();
    stage.end_of(first, KILLED);
    // The probe tells of the end before the process looks dead.
    let stat = format!("/proc/{}/stat", zombie.pid());
    eventually("it is a zombie", || {
        std::fs::read_to_string(&stat).unwrap().contains(") Z ")
    });
    assert!(stage.try_watch(zombie.pid()).is_none());
    assert_eq!(zombie.wait().unwrap(), KILLED);
}

/// Kills that hit every stage of a registration: before it, between its steps, after it.
pub(crate) fn ends_during(stage: &Stage) {
    let (mut refused, mut watched) = (0, Vec::new());
    for round in 0..150 {
        let mut victim = Stage::victim(Kind::Sleep);
        let pid = victim.pid();
        let start = Barrier::new(2);
        let watching = thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                // Some microseconds more each time, up to what a registration takes.
                let pause = Deadline::after(Duration::from_micros(2 * (round % 50)));
                while !pause.has_passed() {}
                victim.kill().unwrap();
            });
            start.wait();
            // And the other way round: what takes longer is mostly the death.
            let pause = Deadline::after(Duration::from_micros(4 * (round % 75)));
            while !pause.has_passed() {}
            stage.try_watch(pid)
        });
        match watching {
            None => refused += 1,
            Some(watching) => watched.push((watching, victim)),
        }
    }
    println!("{refused} had ended before");
    for (watching, _zombie) in watched {
        stage.seen_end(watching);
    }
}

pub(crate) fn several_watches(stage: &Stage) {
    let mut victim = Stage::victim(Kind::Sleep);
    let watches = [(); 3].map(|()| stage.watch(&victim));
    victim.kill().unwrap();
    for watching in watches {
        stage.end_of(watching, KILLED);
    }
}
