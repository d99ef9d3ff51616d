//! What the sweep makes of a process table that it has reasons to doubt.

use super::*;

/// A hundred processes, none of which has the number of this test's own process.
fn hundred() -> impl Iterator<Item = u32> {
    (1..)
        .filter(|number| *number != std::process::id())
        .take(100)
}

/// All of them known by number alone, and this process, before the sweep begins.
fn fixture_of_a_hundred() -> Fixture {
    let fixture = Fixture::new(0);
    fixture.table.refuse(Refusals {
        pidfd_open: Some(Errno::NOSYS),
        ..Refusals::default()
    });
    fixture.table.spawn(pid(std::process::id()), 100);
    let fixture = fixture.with_sweep();
    for number in hundred() {
        fixture.watch(number, 100);
    }
    fixture
}

#[tokio::test(start_paused = true)]
async fn a_table_that_lies_about_everybody_removes_nobody() {
    let fixture = fixture_of_a_hundred();
    fixture.pass(INTERVAL).await;
    // As after a switch of time namespaces: every start time reads otherwise, our own too.
    for number in hundred().chain([std::process::id()]) {
        fixture.table.spawn(pid(number), 777);
    }
    fixture.pass(INTERVAL * 2).await;
    assert_eq!(fixture.deaths(), []);
    assert_eq!(
        fixture.board.get(Source::Sweep).health,
        Some(SourceHealth::Degraded)
    );
}

/// Each sweep held all of them back, for ever.
#[tokio::test(start_paused = true)]
async fn a_wave_of_reuse_is_believed_of_a_table_that_shows_us_as_ever() {
    let fixture = fixture_of_a_hundred();
    fixture.pass(INTERVAL).await;
    for number in hundred() {
        fixture.table.spawn(pid(number), 777);
    }
    fixture.pass(INTERVAL * 2).await;
    assert_eq!(fixture.deaths().len(), 100);
    assert_eq!(
        fixture.board.get(Source::Sweep).health,
        Some(SourceHealth::Up)
    );
}

#[tokio::test(start_paused = true)]
async fn a_hidden_proc_keeps_everybody_and_says_so() {
    let fixture = Fixture::new(0).with_sweep();
    fixture.table.refuse(Refusals {
        pidfd_open: Some(Errno::NOSYS),
        ..Refusals::default()
    });
    for number in 1..=5 {
        fixture.watch(number, 100);
    }
    fixture.table.refuse(Refusals {
        pidfd_open: Some(Errno::NOSYS),
        look: Some(Errno::NOENT),
        ..Refusals::default()
    });
    fixture.pass(INTERVAL * 2).await;
    assert_eq!(fixture.deaths(), []);
    assert_eq!(
        fixture.board.get(Source::Sweep).health,
        Some(SourceHealth::Degraded)
    );
    fixture.table.die(pid(3), 0);
    fixture.table.reap(pid(3));
    fixture.pass(INTERVAL).await;
    assert_eq!(fixture.deaths().len(), 1);
}
