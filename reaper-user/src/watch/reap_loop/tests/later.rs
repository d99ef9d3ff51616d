//! Later registrations of a process that is watched already.

use super::*;
use crate::watch::set::{Arm, Watched};

/// A source that reports what the test tells it to.
struct Armed;

impl Arm for Armed {
    fn arm(&self, _watched: &Watched) {}
    fn disarm(&self, _watched: &Watched) {}
}

/// A process that was registered once, and a second registration of it that has not stored yet.
fn registered_twice(fixture: &Fixture) -> WatchGuard {
    fixture.table.spawn(pid(7), 100);
    let mut first = fixture.watched.watch(pid(7)).unwrap();
    first.recheck();
    // It has stored a session, which holds the entry.
    first.detach();
    let second = fixture.watched.watch(pid(7)).unwrap();
    // What its recheck would read.
    fixture
        .table
        .refuse(|refusals| refusals.stat = Some(Errno::NFILE));
    second
}

#[tokio::test(start_paused = true)]
async fn a_live_process_is_rechecked_for_its_first_registration_only() {
    let fixture = Fixture::new(10);
    let _source = fixture.watched.attach(Arc::new(Armed));
    let second = registered_twice(&fixture);
    second.recheck();
    // A hint would find it now.
    fixture.table.refuse(|_| {});
    fixture.table.die(pid(7), 0);
    fixture.pass(A_MOMENT).await;
    assert_eq!(fixture.deaths(), []);
}

#[tokio::test(start_paused = true)]
async fn without_a_source_of_events_it_is_rechecked_for_each() {
    let fixture = Fixture::new(10);
    let second = registered_twice(&fixture);
    second.recheck();
    fixture.table.refuse(|_| {});
    fixture.table.die(pid(7), 0);
    fixture.pass(A_MOMENT).await;
    assert_eq!(fixture.only_death().source, Source::Register);
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_after_the_loop_has_removed_the_process_is_removed_too() {
    let fixture = Fixture::new(10);
    let _source = fixture.watched.attach(Arc::new(Armed));
    let second = registered_twice(&fixture);
    fixture.table.refuse(|_| {});
    fixture.table.die(pid(7), 0);
    fixture.exit_event(7, 0);
    fixture.pass(A_MOMENT).await;
    assert_eq!(fixture.deaths().len(), 1);
    second.recheck();
    fixture.pass(A_MOMENT).await;
    assert_eq!(fixture.deaths().len(), 2, "the second session stays");
}
