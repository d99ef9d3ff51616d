//! Pinning and promotion over a table of fake processes.

use rustix::io::Errno;

use super::*;
use crate::testkit::fake_table::FakeTable;

const STARTED: u64 = 1_000;

fn pid() -> Pid {
    Pid::new(4242).unwrap()
}

#[test]
fn a_dead_process_cannot_be_pinned() {
    for pidfd_open in [
        None,
        Some(Errno::NOSYS),
        Some(Errno::INVAL),
        Some(Errno::PERM),
    ] {
        let table = FakeTable::default();
        let budget = FdBudget::new(10);
        table.refuse(|refusals| refusals.pidfd_open = pidfd_open);
        let check_gone = |state| {
            let pinned = Identity::pin(&table, &budget, pid());
            assert_eq!(pinned.err(), Some(AlreadyGone.into()), "{state}");
        };
        check_gone("never lived");
        table.spawn(pid(), STARTED);
        table.die(pid(), 0);
        check_gone("zombie");
        table.reap(pid());
        check_gone("reaped");
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn einval_for_a_pid_in_use_does_not_mean_gone() {
    let table = FakeTable::with_process(pid(), STARTED);
    table.refuse(|refusals| refusals.pidfd_open = Some(Errno::INVAL));
    let identity = Identity::pin(&table, &FdBudget::new(10), pid()).unwrap();
    assert_eq!(identity.strength(), IdentityStrength::Stat);
}

#[test]
fn a_freed_slot_promotes_the_same_process_and_never_a_successor() {
    for no_inode in [false, true] {
        let table = FakeTable::with_process(pid(), STARTED);
        table.refuse(|refusals| refusals.no_inode = no_inode);
        let budget = FdBudget::new(1);
        let slot = budget.take().unwrap();
        let mut spilled = Identity::pin(&table, &budget, pid()).unwrap();
        assert_ne!(spilled.strength(), IdentityStrength::Pidfd);
        assert!(!spilled.promote(&table, &budget), "no slot");
        drop(slot);
        assert!(spilled.promote(&table, &budget));
        assert_eq!(
            (spilled.strength(), budget.used()),
            (IdentityStrength::Pidfd, 1)
        );
        drop(spilled);

        let slot = budget.take().unwrap();
        let mut dead = Identity::pin(&table, &budget, pid()).unwrap();
        drop(slot);
        table.die(pid(), 0);
        table.reap(pid());
        table.spawn(pid(), STARTED + 5);
        assert!(
            !dead.promote(&table, &budget),
            "a successor was taken for the process"
        );
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn an_incomplete_identity_is_completed_and_then_promoted() {
    let table = FakeTable::with_process(pid(), STARTED);
    table.set_now(STARTED);
    table.refuse(|refusals| {
        refusals.pidfd_open = Some(Errno::MFILE);
        refusals.stat = Some(Errno::MFILE);
    });
    let budget = FdBudget::new(1);
    let mut identity = Identity::pin(&table, &budget, pid()).unwrap();
    assert_eq!(identity.strength(), IdentityStrength::Pid);
    assert!(!identity.complete(&table), "there are still no descriptors");
    table.refuse(|_| {});
    assert!(identity.complete(&table));
    assert_eq!(identity.strength(), IdentityStrength::StartTime);
    assert!(identity.promote(&table, &budget));
    assert_eq!(identity.strength(), IdentityStrength::Pidfd);
}

#[test]
fn a_spurious_poll_does_not_refuse_a_live_process() {
    let table = FakeTable::with_process(pid(), STARTED);
    table.poll_falsely(1);
    let identity = Identity::pin(&table, &FdBudget::new(1), pid()).unwrap();
    assert_eq!(identity.strength(), IdentityStrength::Pidfd);
}

#[test]
fn the_id_of_a_thread_is_refused_with_the_pid_of_its_process() {
    for pidfd_open in [Errno::INVAL, Errno::NOENT, Errno::NOSYS, Errno::PERM] {
        for descriptors in [0, 10] {
            let table = FakeTable::with_process(pid(), STARTED);
            let thread = Pid::new(4243).unwrap();
            table.spawn_thread(pid(), thread, STARTED);
            table.refuse(|refusals| refusals.pidfd_open = Some(pidfd_open));
            let budget = FdBudget::new(descriptors);
            assert_eq!(
                Identity::pin(&table, &budget, thread).err(),
                Some(WatchError::ThreadId { process: pid() }),
                "{pidfd_open}"
            );
            assert_eq!(budget.used(), 0);
            assert!(Identity::pin(&table, &budget, pid()).is_ok());
        }
    }
}

/// A regression: a watch on a thread reported an end while the process was alive.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_real_thread_is_not_watched_as_a_process() {
    let watcher = crate::ExitWatcher::builder()
        .sources(crate::Sources::only([]))
        .start()
        .await;
    let refused = crate::testing::with_thread(|id| watcher.watch(id).map(drop));
    let process = Pid::try_from(std::process::id()).unwrap();
    assert_eq!(refused, Err(WatchError::ThreadId { process }));
}
