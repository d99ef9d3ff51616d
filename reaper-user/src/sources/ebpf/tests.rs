//! The source by its parts, and against the kernel that runs the tests.

use std::collections::BTreeSet;
use std::process::{Child, Command};
use std::sync::Arc;

use reaper_registry::SourceHealth;
use tokio::time::timeout;

use super::*;
use crate::fd_budget::FdBudget;
use crate::hint::{self, HintReceiver};
use crate::process_table;
use crate::status::StatusBoard;

/// For what takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);
/// One page, with room for about a hundred records.
const TINY_DOORBELL: u32 = 4_096;
const CROWD: usize = 300;

#[tokio::test(start_paused = true)]
async fn misses_that_the_kernel_counts_are_told_and_have_everybody_looked_at() {
    let board = StatusBoard::new(|_| {});
    let (hints, _receiver) = hint::channel();
    let asked = hints.clone();
    let mut standing = Standing {
        hints,
        reporter: board.reporter(Source::Ebpf),
        variant: Variant::BtfTracepoint,
        overflows: 0,
        missed: 7,
        looks_left: 0,
        proven: true,
    };
    standing.missed(7);
    assert_eq!(board.get(Source::Ebpf).lost, 0);
    standing.missed(40);
    assert_eq!(board.get(Source::Ebpf).lost, 33);
    let asked = timeout(Duration::from_secs(1), asked.verification_asked());
    assert!(asked.await.is_ok(), "nobody is asked to look");
    standing.look_again_after_a_miss();
    let again = standing.hints.clone();
    let again = timeout(Duration::from_secs(1), again.verification_asked());
    assert!(again.await.is_ok(), "looked at too early, and never again");
}

#[test]
fn without_a_canary_it_is_degraded_and_an_overflow_does_not_make_it_up() {
    let board = StatusBoard::new(|_| {});
    let (hints, _receiver) = hint::channel();
    let mut standing = Standing {
        hints,
        reporter: board.reporter(Source::Ebpf),
        variant: Variant::BtfTracepoint,
        overflows: 0,
        missed: 0,
        looks_left: 0,
        proven: false,
    };
    let health = || board.get(Source::Ebpf).health;
    standing.overflowed(1);
    assert_eq!(health(), None, "nothing is proved yet");
    standing.take(&Proof::Counted);
    assert_eq!(health(), Some(SourceHealth::Up));
    standing.take(&Proof::NoThread(io::ErrorKind::WouldBlock.into()));
    standing.overflowed(2);
    assert_eq!(health(), Some(SourceHealth::Degraded));
    standing.take(&Proof::Counted);
    assert_eq!(health(), Some(SourceHealth::Up));
}

/// A test of one thread: while it does not wait, the source does not read.
#[tokio::test]
async fn whom_a_full_doorbell_could_not_tell_is_found_in_the_map() {
    let board = StatusBoard::new(|_| {});
    let (hints, mut told) = hint::channel();
    let watched = WatchSet::new(
        process_table::of_this_system(),
        FdBudget::new(CROWD),
        hints.clone(),
    );
    let context = Context {
        hints,
        watched: watched.clone(),
        reporter: board.reporter(Source::Ebpf),
    };
    tokio::select! {
        ended = run_with(context, TINY_DOORBELL) => {
            let Err(refused) = ended;
            let required = std::env::var("REAPER_REQUIRE").unwrap_or_default();
            let is_required = required.split(',').any(|name| name == "ebpf");
            assert!(!is_required, "ebpf is required: {refused}");
            println!("skipped: no probe: {refused}");
        }
        () = overrun(&board, &watched, &mut told) => {}
    }
}

async fn overrun(board: &StatusBoard, watched: &Arc<WatchSet>, told: &mut HintReceiver) {
    let status = board.first_report(Source::Ebpf).await;
    assert_eq!(status.health, Some(SourceHealth::Up), "{}", status.reason);
    let sleeper = || Command::new("sleep").arg("600").spawn().unwrap();
    let mut crowd: Vec<Child> = std::iter::repeat_with(sleeper).take(CROWD).collect();
    let pids: BTreeSet<Pid> = crowd
        .iter()
        .map(|one| Pid::new(one.id()).unwrap())
        .collect();
    let _held: Vec<_> = pids.iter().map(|&pid| watched.hold(pid).unwrap()).collect();
    for one in &mut crowd {
        one.kill().unwrap();
    }
    for one in &mut crowd {
        one.wait().unwrap();
    }
    let mut seen = BTreeSet::new();
    while seen != pids {
        let hint = timeout(SOON, told.recv()).await;
        let hint = hint.unwrap_or_else(|_| panic!("{} of {CROWD} are told", seen.len()));
        if let Some(Hint {
            target: Target::Pid(pid),
            group_dead: Some(_),
            ..
        }) = hint
        {
            seen.insert(pid);
        }
    }
    let overflowed = || {
        !board
            .get(Source::Ebpf)
            .detail
            .contains(" overflowed 0 times")
    };
    timeout(SOON, async {
        while !overflowed() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the doorbell had room for all");
}
