//! The sweep over a process table with wrong or missing records.

use super::*;

/// A hundred pids, none of which is that of this test's process.
fn hundred() -> impl Iterator<Item = u32> {
    (1..)
        .filter(|raw_pid| *raw_pid != std::process::id())
        .take(100)
}

/// A hundred processes known by pid and start time alone, and this process, before the sweep
/// starts.
fn fixture_with_a_hundred() -> Fixture {
    let fixture = Fixture::new(0);
    fixture
        .table
        .refuse(|refusals| refusals.pidfd_open = Some(Errno::NOSYS));
    fixture.table.spawn(pid(std::process::id()), 100);
    let fixture = fixture.with_sweep();
    for raw_pid in hundred() {
        fixture.watch(raw_pid, 100);
    }
    fixture
}

fn sweep_health(fixture: &Fixture) -> Option<SourceHealth> {
    fixture.board.get(Source::Sweep).health
}

#[tokio::test(start_paused = true)]
async fn wrong_start_times_of_all_processes_remove_none() {
    let fixture = fixture_with_a_hundred();
    fixture.pass(INTERVAL).await;
    // As after a switch of time namespaces: every start time differs, ours too.
    for raw_pid in hundred().chain([std::process::id()]) {
        fixture.table.spawn(pid(raw_pid), 777);
    }
    fixture.pass(INTERVAL * 2).await;
    assert_eq!(fixture.deaths(), []);
    assert_eq!(sweep_health(&fixture), Some(SourceHealth::Degraded));
}

/// A regression: each sweep suppressed all of them, without end.
#[tokio::test(start_paused = true)]
async fn a_wave_of_reuse_counts_if_our_own_start_time_is_unchanged() {
    let fixture = fixture_with_a_hundred();
    fixture.pass(INTERVAL).await;
    for raw_pid in hundred() {
        fixture.table.spawn(pid(raw_pid), 777);
    }
    fixture.pass(INTERVAL * 2).await;
    assert_eq!(fixture.deaths().len(), 100);
    assert_eq!(sweep_health(&fixture), Some(SourceHealth::Up));
}

#[tokio::test(start_paused = true)]
async fn a_hidden_proc_keeps_all_processes_and_degrades_the_sweep() {
    let fixture = Fixture::new(0).with_sweep();
    fixture
        .table
        .refuse(|refusals| refusals.pidfd_open = Some(Errno::NOSYS));
    for raw_pid in 1..=5 {
        fixture.watch(raw_pid, 100);
    }
    fixture.table.refuse(|refusals| {
        refusals.pidfd_open = Some(Errno::NOSYS);
        refusals.stat = Some(Errno::NOENT);
    });
    fixture.pass(INTERVAL * 2).await;
    assert_eq!(fixture.deaths(), []);
    assert_eq!(sweep_health(&fixture), Some(SourceHealth::Degraded));
    fixture.table.die(pid(3), 0);
    fixture.table.reap(pid(3));
    fixture.pass(INTERVAL).await;
    assert_eq!(fixture.deaths().len(), 1);
}
