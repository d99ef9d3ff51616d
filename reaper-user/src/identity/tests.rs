//! Pinning and promotion over a table of fake processes.

use rustix::io::Errno;

use super::*;
use crate::fake_table::{FakeTable, Refusals};

const STARTED: u64 = 1_000;

fn pid() -> Pid {
    Pid::new(4242).unwrap()
}

#[test]
fn the_dead_cannot_be_pinned() {
    for pidfd_open in [
        None,
        Some(Errno::NOSYS),
        Some(Errno::INVAL),
        Some(Errno::PERM),
    ] {
        let table = FakeTable::default();
        let budget = FdBudget::new(10);
        table.refuse(Refusals {
            pidfd_open,
            ..Refusals::default()
        });
        assert_eq!(
            Identity::pin(&table, &budget, pid()).err(),
            Some(AlreadyGone),
            "never lived"
        );
        table.spawn(pid(), STARTED);
        table.die(pid(), 0);
        assert_eq!(
            Identity::pin(&table, &budget, pid()).err(),
            Some(AlreadyGone),
            "zombie"
        );
        table.reap(pid());
        assert_eq!(
            Identity::pin(&table, &budget, pid()).err(),
            Some(AlreadyGone),
            "reaped"
        );
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn einval_of_a_number_that_lives_is_not_gone() {
    let table = FakeTable::default();
    table.spawn(pid(), STARTED);
    table.refuse(Refusals {
        pidfd_open: Some(Errno::INVAL),
        ..Refusals::default()
    });
    let identity = Identity::pin(&table, &FdBudget::new(10), pid()).unwrap();
    assert_eq!(identity.strength(), "stat");
}

#[test]
fn a_freed_slot_promotes_the_same_process_and_never_a_successor() {
    for no_inode in [false, true] {
        let table = FakeTable::default();
        table.spawn(pid(), STARTED);
        table.refuse(Refusals {
            no_inode,
            ..Refusals::default()
        });
        let budget = FdBudget::new(1);
        let slot = budget.take().unwrap();
        let mut spilled = Identity::pin(&table, &budget, pid()).unwrap();
        assert_ne!(spilled.strength(), "pidfd");
        assert!(!spilled.promote(&table, &budget), "no slot");
        drop(slot);
        assert!(spilled.promote(&table, &budget));
        assert_eq!((spilled.strength(), budget.used()), ("pidfd", 1));
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
