//! Registrations in which a step failed.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_process_that_could_not_be_read_at_first_is_completed_by_the_sweep() {
    let fixture = Fixture::new(10).with_sweep();
    fixture.table.refuse(|refusals| {
        refusals.pidfd_open = Some(Errno::NFILE);
        refusals.stat = Some(Errno::NFILE);
    });
    fixture.table.set_now(100);
    let process = fixture.watch(7, 100);
    assert_eq!(strength(&fixture, process.0), Some(IdentityStrength::Pid));
    fixture.table.refuse(|_| {});
    fixture.pass(INTERVAL).await;
    assert_eq!(strength(&fixture, process.0), Some(IdentityStrength::Pidfd));
}

/// The first registration of a process is refused after a second one has reused its entry. The
/// recheck of the second one may have been before the sources were armed.
#[tokio::test(start_paused = true)]
async fn a_process_shared_with_a_refused_registration_is_rechecked() {
    let fixture = Fixture::new(10);
    fixture.table.spawn(pid(7), 100);
    let refused = fixture.watched.watch(pid(7)).unwrap();
    let second = fixture.watched.watch(pid(7)).unwrap();
    second.recheck();
    fixture.table.die(pid(7), 0);
    drop(refused);
    fixture.pass(A_MOMENT).await;
    assert_eq!(fixture.deaths().len(), 1, "its death was missed");
}
