//! The filters as the kernel runs them, and that no exit is missed while the filter changes.

use super::*;
use crate::sys::cbpf;

/// Adds the thread groups whose exits are in the queue.
fn read(subscription: &Subscription, seen: &mut Vec<u32>) {
    subscription
        .drain_all(|event| {
            if let Event::Exit(exit) = event {
                seen.push(exit.tgid);
            }
        })
        .unwrap();
}

/// Returns the thread groups whose exits have arrived, up to that of `last`.
async fn exits_until(subscription: &Subscription, last: &TestProcess) -> Vec<u32> {
    let mut seen = Vec::new();
    eventually(|| {
        read(subscription, &mut seen);
        seen.contains(&last.pid())
    })
    .await;
    seen
}

/// Attaches the narrowest filter, and discards what an earlier, wider one has let in.
fn settle(filter: &ClassicFilter, subscription: &Subscription) {
    filter.install_again();
    read(subscription, &mut Vec::new());
}

/// Ids that no process has.
fn unused_ids(count: u32) -> impl Iterator<Item = u32> {
    (Pid::MAX + 1..).take(count as usize)
}

#[tokio::test]
async fn exits_of_unwatched_processes_do_not_reach_the_queue() {
    if !available().await {
        return;
    }
    let filter = ClassicFilter::new(None);
    let subscription = Subscription::open(&filter, RECEIVE_BUFFER).await.unwrap();
    let mut test_process = TestProcess::new();
    filter.add(test_process.pid(), ProcessId(1));
    settle(&filter, &subscription);
    for _ in 0..200 {
        assert!(Command::new("true").status().unwrap().success());
    }
    test_process.exit();
    assert_eq!(
        exits_until(&subscription, &test_process).await,
        [test_process.pid()]
    );
}

#[tokio::test]
async fn programs_of_every_size_filter_correctly() {
    if !available().await {
        return;
    }
    for others in [1, 1_000, 3_000, 3_300, 20_000, 100_000] {
        let filter = ClassicFilter::new(None);
        let subscription = Subscription::open(&filter, RECEIVE_BUFFER).await.unwrap();
        unused_ids(others).for_each(|tgid| filter.add(tgid, ProcessId(1)));
        let mut test_processes = start_processes(20);
        for test_process in test_processes.iter().step_by(2) {
            filter.add(test_process.pid(), ProcessId(2));
        }
        settle(&filter, &subscription);
        println!("{}", filter.describe());
        // The last one is watched.
        test_processes.reverse();
        test_processes.iter_mut().for_each(TestProcess::exit);
        let exact = others as usize <= cbpf::MAX_EXACT - 10;
        let seen = exits_until(&subscription, &test_processes[19]).await;
        for (at, test_process) in test_processes.iter().enumerate() {
            let watched = at % 2 == 1;
            let passed = seen.contains(&test_process.pid());
            assert!(
                if exact {
                    passed == watched
                } else {
                    passed >= watched
                },
                "{others}: {at}"
            );
        }
        assert!(!exact || seen.len() == 10, "{others} others");
    }
}

#[tokio::test]
async fn no_exit_is_missed_while_the_filter_changes() {
    if !available().await {
        return;
    }
    let filter = Arc::new(ClassicFilter::new(None));
    let subscription = Subscription::open(&*filter, RECEIVE_BUFFER).await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let churn = {
        let (filter, stop) = (Arc::clone(&filter), Arc::clone(&stop));
        std::thread::spawn(move || {
            for tgid in unused_ids(100_000) {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                filter.add(tgid, ProcessId(1));
                filter.narrow_if_due();
                if tgid % 7 == 0 {
                    filter.remove(tgid, ProcessId(1));
                }
                if tgid % 13 == 0 {
                    filter.install_again();
                }
            }
        })
    };
    let mut expected = Vec::new();
    for _ in 0..100 {
        let mut test_process = TestProcess::new();
        filter.add(test_process.pid(), ProcessId(2));
        test_process.exit();
        expected.push(test_process.pid());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    churn.join().unwrap();
    let mut seen = Vec::new();
    eventually(|| {
        read(&subscription, &mut seen);
        expected.retain(|pid| !seen.contains(pid));
        expected.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_burst_of_registrations_widens_the_filter_and_a_pause_narrows_it() {
    if !available().await {
        return;
    }
    let fixture = Fixture::up(RECEIVE_BUFFER).await;
    unused_ids(2_000).for_each(|tgid| fixture.filter.add(tgid, ProcessId(1)));
    assert!(
        fixture.filter.describe().contains("all exits"),
        "{}",
        fixture.filter.describe()
    );
    eventually(|| fixture.filter.describe() == "classic (2000 tgids)").await;
    unused_ids(2_000)
        .skip(20)
        .for_each(|tgid| fixture.filter.remove(tgid, ProcessId(1)));
    unused_ids(2_000).for_each(|tgid| fixture.filter.remove(tgid, ProcessId(7)));
    eventually(|| fixture.filter.describe() == "classic (20 tgids)").await;
    eventually(|| fixture.filter.state().tgids.len() == 20).await;
}

#[test]
fn a_pid_stays_watched_until_its_last_process_is_removed() {
    let filter = ClassicFilter::new(None);
    filter.add(7, ProcessId(1));
    filter.add(7, ProcessId(1));
    filter.add(7, ProcessId(2));
    filter.remove(7, ProcessId(1));
    filter.remove(7, ProcessId(1));
    assert_eq!(filter.state().tgids[&7], [ProcessId(2)]);
    assert_eq!(filter.state().stale, 0);
    filter.remove(7, ProcessId(2));
    filter.remove(7, ProcessId(2));
    assert_eq!(filter.state().stale, 1);
    filter.add(7, ProcessId(3));
    assert_eq!(filter.state().stale, 0);
}
