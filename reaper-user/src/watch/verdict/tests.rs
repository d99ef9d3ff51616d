//! The verdict for each observed behaviour of kernels.

use std::sync::Arc;

use reaper_registry::Pid;
use rustix::io::Errno;

use super::*;
use crate::testkit::fake_table::{FakeTable, Refusals, Unread};
use crate::watch::fd_budget::FdBudget;
use crate::watch::identity::IdentityStrength as Strength;

const PID: u32 = 4242;
const STARTED: u64 = 1_000;

/// The identities that systems offer, strongest first. With an inode, no descriptor may stay open.
const SYSTEMS: [Strength; 4] = [
    Strength::Pidfd,
    Strength::PidfdInode,
    Strength::Stat,
    Strength::StartTime,
];

struct Fixture {
    table: FakeTable,
    identity: Identity,
    pidfd_open: Option<Errno>,
}

fn pid() -> Pid {
    Pid::new(PID).unwrap()
}

fn live_process(strength: Strength) -> Fixture {
    let table = FakeTable::with_process(pid(), STARTED);
    let has_pidfds = matches!(strength, Strength::Pidfd | Strength::PidfdInode);
    let keeps_descriptors = matches!(strength, Strength::Pidfd | Strength::Stat);
    let pidfd_open = (!has_pidfds).then_some(Errno::NOSYS);
    table.refuse(|refusals| refusals.pidfd_open = pidfd_open);
    let budget = FdBudget::new(if keeps_descriptors { 10 } else { 0 });
    let identity = Identity::pin(&table, &budget, pid()).unwrap();
    assert_eq!(identity.strength(), strength);
    Fixture {
        table,
        identity,
        pidfd_open,
    }
}

/// The verdict as text.
fn judged(identity: &Identity, group_dead: Option<GroupDead>, table: &dyn ProcessTable) -> String {
    match judge(identity, group_dead, table) {
        Verdict::Gone {
            evidence,
            pid_reused,
        } => {
            let end = if pid_reused { "reused" } else { "gone" };
            format!("{end} by {}", evidence.name())
        }
        Verdict::Alive => "alive".into(),
        Verdict::Unknown(Doubt::Hidden) => "unknown: hidden".into(),
        Verdict::Unknown(Doubt::CheckFailed(error)) => {
            let errno = Errno::from_io_error(&error).unwrap();
            format!("unknown: {}", errno.raw_os_error())
        }
    }
}

/// Checks the verdicts after a change of the table, in the order of [`SYSTEMS`].
fn check_verdicts(change: impl Fn(&FakeTable), expected: [&str; 4]) {
    for (system, expected) in SYSTEMS.into_iter().zip(expected) {
        let fixture = live_process(system);
        change(&fixture.table);
        assert_eq!(fixture.verdict(), expected, "{system:?}");
    }
}

impl Fixture {
    fn verdict(&self) -> String {
        judged(&self.identity, None, &self.table)
    }

    /// Makes calls fail, besides those that this system does not have.
    fn refuse(&self, set: impl FnOnce(&mut Refusals)) {
        self.table.refuse(|refusals| {
            refusals.pidfd_open = self.pidfd_open;
            set(refusals);
        });
    }
}

#[test]
fn a_running_process_is_alive() {
    check_verdicts(|_| {}, ["alive"; 4]);
}

#[test]
fn a_process_whose_main_thread_left_is_alive_until_its_last_thread_ends() {
    for system in SYSTEMS {
        let fixture = live_process(system);
        fixture.table.leader_leaves(pid(), 2);
        assert_eq!(fixture.verdict(), "alive", "{system:?}");
        fixture.table.leader_leaves(pid(), 1);
        assert_eq!(fixture.verdict(), "alive", "{system:?}");
        fixture.table.die(pid(), 0);
        assert!(fixture.verdict().starts_with("gone"), "{system:?}");
    }
}

#[test]
fn a_check_during_a_workers_exec_finds_the_process_alive() {
    check_verdicts(|table| table.show_torn_stat(pid()), ["alive"; 4]);
}

/// A poll during a worker's exec can report a live process as readable (6.15, 6.12 by backport).
#[test]
fn a_spurious_poll_does_not_make_a_live_process_dead() {
    for system in [Strength::Pidfd, Strength::PidfdInode] {
        for hidden in [None, Some(Errno::NOENT)] {
            let fixture = live_process(system);
            fixture.refuse(|refusals| refusals.stat = hidden);
            fixture.table.poll_falsely(1);
            assert_eq!(fixture.verdict(), "alive", "{system:?} {hidden:?}");
            fixture.refuse(|_| {});
            fixture.table.leader_leaves(pid(), 1);
            fixture.table.poll_falsely(1);
            assert_eq!(
                fixture.verdict(),
                "alive",
                "{system:?}, its main thread has left"
            );
        }
    }
}

/// A filter forbids the signal that would show that the process was reaped.
#[test]
fn a_successor_is_not_taken_for_a_process_with_a_readable_pidfd() {
    let fixture = live_process(Strength::Pidfd);
    fixture.refuse(|refusals| refusals.pid_lookup = Some(Errno::PERM));
    die_and_be_reaped(&fixture.table);
    fixture.table.spawn(pid(), STARTED + 3);
    assert_eq!(fixture.verdict(), "reused by pidfd");
}

#[test]
fn a_process_with_unreaped_dead_threads_is_gone() {
    for why in [Unread::Traced, Unread::NamespaceInit] {
        check_verdicts(|table| table.die_unread(pid(), why), ["gone by stat"; 4]);
    }
}

fn die_and_be_reaped(table: &FakeTable) {
    table.die(pid(), 9);
    table.reap(pid());
}

#[test]
fn an_unreaped_zombie_and_a_reaped_process_are_gone() {
    let expected = [
        "gone by pidfd",
        "gone by pidfd",
        "gone by stat",
        "gone by stat",
    ];
    check_verdicts(|table| table.die(pid(), 9), expected);
    check_verdicts(die_and_be_reaped, expected);
}

#[test]
fn only_the_pid_mode_mistakes_a_successor_and_only_one_of_the_same_tick() {
    for (later, of_pid_mode) in [(3, "reused by start_time"), (0, "alive")] {
        let reuse_pid = |table: &FakeTable| {
            die_and_be_reaped(table);
            table.spawn(pid(), STARTED + later);
        };
        let expected = [
            "gone by pidfd",
            "reused by pidfd",
            "gone by stat",
            of_pid_mode,
        ];
        check_verdicts(reuse_pid, expected);
    }
}

#[test]
fn a_hidden_entry_proves_nothing_while_the_pid_is_in_use() {
    let fixture = live_process(Strength::StartTime);
    fixture.refuse(|refusals| refusals.stat = Some(Errno::NOENT));
    assert_eq!(fixture.verdict(), "unknown: hidden");
    die_and_be_reaped(&fixture.table);
    assert_eq!(fixture.verdict(), "gone by stat");
}

#[test]
fn a_hidden_proc_does_not_affect_a_pidfd() {
    for system in [Strength::Pidfd, Strength::PidfdInode] {
        let fixture = live_process(system);
        fixture.refuse(|refusals| refusals.stat = Some(Errno::NOENT));
        assert_eq!(fixture.verdict(), "alive", "{system:?}");
        fixture.table.die(pid(), 0);
        assert_eq!(fixture.verdict(), "gone by pidfd", "{system:?}");
    }
}

#[test]
fn every_failed_check_keeps_the_process() {
    for errno in [
        Errno::MFILE,
        Errno::NFILE,
        Errno::PERM,
        Errno::ACCESS,
        Errno::NOMEM,
        Errno::INVAL,
    ] {
        let unknown = format!("unknown: {}", errno.raw_os_error());
        let fixture = live_process(Strength::Pidfd);
        fixture.refuse(|refusals| refusals.poll = Some(errno));
        assert_eq!(fixture.verdict(), unknown);

        let fixture = live_process(Strength::PidfdInode);
        fixture.refuse(|refusals| {
            refusals.pidfd_open = Some(errno);
            refusals.stat = Some(errno);
        });
        assert_eq!(fixture.verdict(), unknown);

        for system in [Strength::Stat, Strength::StartTime] {
            let fixture = live_process(system);
            fixture.refuse(|refusals| refusals.stat = Some(errno));
            assert_eq!(fixture.verdict(), unknown, "{system:?}");
        }
    }
}

#[test]
fn without_descriptors_or_inode_the_pid_and_start_time_are_checked() {
    let refusals: [fn(&mut Refusals); 2] = [
        |refusals| refusals.pidfd_open = Some(Errno::MFILE),
        |refusals| refusals.no_inode = true,
    ];
    for refusal in refusals {
        let fixture = live_process(Strength::PidfdInode);
        fixture.refuse(refusal);
        assert_eq!(fixture.verdict(), "alive");
        fixture.table.die(pid(), 0);
        assert_eq!(fixture.verdict(), "gone by stat");
    }
}

#[test]
fn a_pid_that_cannot_be_checked_is_kept() {
    let fixture = live_process(Strength::StartTime);
    fixture.refuse(|refusals| {
        refusals.stat = Some(Errno::NOENT);
        refusals.pid_lookup = Some(Errno::INVAL);
    });
    assert_eq!(
        fixture.verdict(),
        format!("unknown: {}", Errno::INVAL.raw_os_error())
    );
}

#[test]
fn a_group_dead_report_fits_neither_another_start_time_nor_a_predecessor_of_the_same_tick() {
    let fixture = live_process(Strength::Pidfd);
    let alive_at_ns = fixture.identity.alive_at_ns;
    let verdict = |start_time, at_ns| {
        let start_time = StartTime(start_time);
        let report = GroupDead { start_time, at_ns };
        judged(&fixture.identity, Some(report), &fixture.table)
    };
    assert_eq!(verdict(STARTED + 1, alive_at_ns + 1), "alive");
    assert_eq!(verdict(STARTED, alive_at_ns - 1), "alive");
    assert_eq!(verdict(STARTED, alive_at_ns + 1), "gone by group_dead");
}

#[test]
fn a_group_dead_report_is_ignored_if_the_start_time_is_unknown() {
    let table = FakeTable::with_process(pid(), STARTED);
    table.refuse(|refusals| refusals.stat = Some(Errno::NOENT));
    let identity = Identity::pin(&table, &FdBudget::new(1), pid()).unwrap();
    assert!(identity.start_time.is_none());
    let report = GroupDead {
        start_time: StartTime(STARTED),
        at_ns: u64::MAX,
    };
    assert_eq!(judged(&identity, Some(report), &table), "alive");
}

#[test]
fn an_unreadable_process_is_alive_while_its_pid_is_in_use() {
    let table = FakeTable::with_process(pid(), STARTED);
    table.refuse(|refusals| {
        refusals.pidfd_open = Some(Errno::PERM);
        refusals.stat = Some(Errno::NOENT);
    });
    let identity = Identity::pin(&table, &FdBudget::new(10), pid()).unwrap();
    assert_eq!(identity.strength(), Strength::Pid);
    assert_eq!(judged(&identity, None, &table), "alive");
    die_and_be_reaped(&table);
    assert_eq!(judged(&identity, None, &table), "gone by stat");
}

#[test]
fn a_process_of_unknown_start_time_is_distinguished_from_a_successor() {
    let table = FakeTable::with_process(pid(), STARTED);
    table.set_now(STARTED + 5);
    table.refuse(|refusals| {
        refusals.pidfd_open = Some(Errno::MFILE);
        refusals.stat = Some(Errno::MFILE);
    });
    let mut identity = Identity::pin(&table, &FdBudget::new(10), pid()).unwrap();
    assert_eq!(identity.strength(), Strength::Pid);
    table.refuse(|_| {});
    assert_eq!(judged(&identity, None, &table), "alive");

    die_and_be_reaped(&table);
    table.spawn(pid(), STARTED + 6);
    assert_eq!(judged(&identity, None, &table), "reused by start_time");
    assert!(!identity.complete(&table), "a successor was taken for it");
}

#[test]
fn the_real_table_shows_this_process_alive_and_a_child_gone() {
    let table: Arc<dyn ProcessTable> = crate::sys::process_table::of_this_system();
    let budget = FdBudget::from_limits();
    let verdict = |identity: &Identity| judged(identity, None, table.as_ref());
    let pin = |raw_pid| {
        let pid = Pid::new(raw_pid).unwrap();
        Identity::pin(table.as_ref(), &budget, pid).unwrap()
    };
    assert_eq!(verdict(&pin(std::process::id())), "alive");

    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("cat runs everywhere");
    let identity = pin(child.id());
    assert_eq!(verdict(&identity), "alive");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(
        judge(&identity, None, table.as_ref()),
        Verdict::Gone { .. }
    ));
}
