//! Parts of the source, and the source on the kernel that runs the tests.

use std::collections::BTreeSet;
use std::sync::Arc;

use reaper_registry::SourceHealth;
use tokio::time::timeout;

use super::*;
use crate::sys::process_table;
use crate::testing::{Sleeper, skip_without};
use crate::watch::fd_budget::FdBudget;
use crate::watch::hint::{self, HintReceiver};
use crate::watch::status::StatusBoard;

/// For what takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);
/// Bytes of a record in the ring with its header, which bounds how many fit into a page.
const RECORD: usize = GroupDeath::SIZE + 8;

fn unproven_probe(board: &StatusBoard, hints: HintSender) -> ProbeHealth {
    ProbeHealth {
        hints,
        reporter: board.reporter(Source::Ebpf),
        variant: Variant::BtfTracepoint,
        overflows: 0,
        missed: 0,
        rechecks_left: 0,
        refused: 0,
        proven: false,
    }
}

#[tokio::test(start_paused = true)]
async fn misses_counted_by_the_kernel_are_reported_and_request_sweeps() {
    let board = StatusBoard::new(|_| {});
    let (hints, _receiver) = hint::channel();
    let observer = hints.clone();
    let mut probe_health = ProbeHealth {
        missed: 7,
        proven: true,
        ..unproven_probe(&board, hints)
    };
    probe_health.missed(7);
    assert_eq!(board.get(Source::Ebpf).lost, 0);
    probe_health.missed(40);
    assert_eq!(board.get(Source::Ebpf).lost, 33);
    let requested = timeout(Duration::from_secs(1), observer.sweep_requested());
    assert!(requested.await.is_ok(), "no sweep is requested");
    probe_health.recheck_after_a_miss();
    let again = probe_health.hints.clone();
    let again = timeout(Duration::from_secs(1), again.sweep_requested());
    assert!(again.await.is_ok(), "no further sweep is requested");
}

#[test]
fn without_a_canary_it_is_degraded_and_an_overflow_does_not_make_it_up() {
    let board = StatusBoard::new(|_| {});
    let (hints, _receiver) = hint::channel();
    let mut probe_health = unproven_probe(&board, hints);
    let health = || board.get(Source::Ebpf).health;
    probe_health.overflowed(1);
    assert_eq!(health(), None, "nothing is proven yet");
    probe_health.take(&Proof::Counted);
    assert_eq!(health(), Some(SourceHealth::Up));
    probe_health.take(&Proof::NoThread(io::ErrorKind::WouldBlock.into()));
    probe_health.overflowed(2);
    assert_eq!(health(), Some(SourceHealth::Degraded));
    probe_health.take(&Proof::Counted);
    assert_eq!(health(), Some(SourceHealth::Up));
}

/// Runs on one thread: while the test does not wait, the source does not read.
#[tokio::test]
async fn deaths_that_did_not_fit_the_ring_are_found_in_the_map() {
    let board = StatusBoard::new(|_| {});
    let (hints, mut received) = hint::channel();
    let table = process_table::of_this_system();
    let watched = WatchSet::new(table, FdBudget::new(0), hints.clone());
    let context = Context {
        hints,
        watched: watched.clone(),
        reporter: board.reporter(Source::Ebpf),
    };
    let page = u32::try_from(rustix::param::page_size()).unwrap();
    tokio::select! {
        ended = run_with(context, move |offset| Attached::attach(page, std::process::id(), offset)) => {
            let Err(refused) = ended;
            assert_eq!(board.get(Source::Ebpf).health, None, "{refused}");
            skip_without("ebpf", refused);
        }
        () = overrun(page as usize / RECORD, &board, &watched, &mut received) => {}
    }
}

async fn overrun(
    capacity: usize,
    board: &StatusBoard,
    watched: &Arc<WatchSet>,
    received: &mut HintReceiver,
) {
    let status = board.first_report(Source::Ebpf).await;
    assert_eq!(status.health, Some(SourceHealth::Up), "{}", status.reason);
    let mut crowd: Vec<_> = std::iter::repeat_with(Sleeper::start)
        .take(2 * capacity)
        .collect();
    let pids: BTreeSet<Pid> = crowd.iter().map(Sleeper::pid).collect();
    let guards: Vec<_> = pids
        .iter()
        .map(|&pid| watched.watch(pid).unwrap())
        .collect();
    let processes: BTreeSet<_> = guards.iter().map(|guard| guard.watched.id).collect();
    crowd.iter_mut().for_each(Sleeper::kill);
    crowd.iter_mut().for_each(Sleeper::end);
    let mut seen = BTreeSet::new();
    // A kernel that preempts tracepoints does not run the probe for all exits, and counts those.
    let lost = || usize::try_from(board.get(Source::Ebpf).lost).unwrap();
    while seen.len() + lost() < pids.len() {
        let hint = timeout(SOON, received.recv()).await;
        let hint = hint.unwrap_or_else(|_| panic!("{} of {} arrived", seen.len(), pids.len()));
        if let Some(Hint {
            process,
            group_dead: Some(_),
            ..
        }) = hint
            && processes.contains(&process)
        {
            seen.insert(process);
        }
    }
    assert!(
        seen.len() > capacity,
        "a ring of {capacity} records reported {} deaths",
        seen.len()
    );
    let has_overflowed = || {
        !board
            .get(Source::Ebpf)
            .detail
            .contains(" overflowed 0 times")
    };
    let until_reported = async {
        while !has_overflowed() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, until_reported)
        .await
        .expect("the ring never overflowed");
}
