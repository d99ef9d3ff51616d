//! Pidfds that are not readable though the process is dead, or readable though it is alive.

use super::*;
use crate::testkit::fake_table::Unread;

/// The kernel wakes no pidfd for these processes.
#[tokio::test(start_paused = true)]
async fn the_sweep_finds_the_dead_whose_pidfds_are_not_readable() {
    for why in [Unread::Traced, Unread::NamespaceInit] {
        let fixture = Fixture::new(10).with_sweep();
        fixture.watch(7, 100);
        fixture.watch(8, 100);
        fixture.pass(A_MOMENT).await;
        fixture.table.die_unread(pid(7), why);
        fixture.table.leader_leaves(pid(8), 1);
        fixture.pass(INTERVAL).await;
        let death = fixture.only_death();
        assert_eq!(
            (death.source, death.evidence),
            (Source::Sweep, Evidence::Stat)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_spurious_poll_in_the_sweep_removes_no_live_process() {
    let fixture = Fixture::new(10).with_sweep();
    fixture.watch(7, 100);
    fixture.pass(A_MOMENT).await;
    for polls in 1..=2 {
        fixture.table.poll_falsely(polls);
        fixture.pass(INTERVAL * 2).await;
        assert_eq!(fixture.deaths(), [], "{polls} spurious polls");
    }
}
