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

/// What a system offers, strongest identity first.
#[derive(Clone, Copy, Debug)]
enum System {
    Pidfds,
    /// Pidfds with inodes, but no descriptor may stay open.
    InodesOnly,
    StatFilesOnly,
    PidsOnly,
}

const SYSTEMS: [System; 4] = [
    System::Pidfds,
    System::InodesOnly,
    System::StatFilesOnly,
    System::PidsOnly,
];

struct Fixture {
    table: FakeTable,
    identity: Identity,
    refusals: Refusals,
}

fn pid() -> Pid {
    Pid::new(PID).unwrap()
}

fn live_process(system: System) -> Fixture {
    let table = FakeTable::default();
    table.spawn(pid(), STARTED);
    let (budget, pidfd_open) = match system {
        System::Pidfds => (10, None),
        System::InodesOnly => (0, None),
        System::StatFilesOnly => (10, Some(Errno::NOSYS)),
        System::PidsOnly => (0, Some(Errno::NOSYS)),
    };
    let refusals = Refusals {
        pidfd_open,
        ..Refusals::default()
    };
    table.refuse(refusals);
    let identity = Identity::pin(&table, &FdBudget::new(budget), pid()).unwrap();
    let strength = match system {
        System::Pidfds => Strength::Pidfd,
        System::InodesOnly => Strength::PidfdInode,
        System::StatFilesOnly => Strength::Stat,
        System::PidsOnly => Strength::StartTime,
    };
    assert_eq!(identity.strength(), strength);
    Fixture {
        table,
        identity,
        refusals,
    }
}

impl Fixture {
    fn verdict(&self) -> String {
        match judge(&self.identity, None, &self.table) {
            Verdict::Gone {
                evidence,
                pid_reused: false,
            } => format!("gone by {}", evidence.name()),
            Verdict::Gone {
                evidence,
                pid_reused: true,
            } => format!("reused by {}", evidence.name()),
            Verdict::Alive => "alive".into(),
            Verdict::Unknown(Doubt::Hidden) => "unknown: hidden".into(),
            Verdict::Unknown(Doubt::CheckFailed(error)) => {
                format!(
                    "unknown: {}",
                    Errno::from_io_error(&error).unwrap().raw_os_error()
                )
            }
        }
    }

    fn refuse(&self, change: impl FnOnce(&mut Refusals)) {
        let mut refusals = self.refusals;
        change(&mut refusals);
        self.table.refuse(refusals);
    }
}

#[test]
fn a_running_process_is_alive() {
    for system in SYSTEMS {
        assert_eq!(live_process(system).verdict(), "alive", "{system:?}");
    }
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
    for system in SYSTEMS {
        let fixture = live_process(system);
        fixture.table.show_torn_stat(pid());
        assert_eq!(fixture.verdict(), "alive", "{system:?}");
    }
}

/// A poll during a worker's exec can report a live process as readable (6.15, 6.12 by backport).
#[test]
fn a_spurious_poll_does_not_make_a_live_process_dead() {
    for system in [System::Pidfds, System::InodesOnly] {
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
    let fixture = live_process(System::Pidfds);
    fixture.refuse(|refusals| refusals.pid_lookup = Some(Errno::PERM));
    fixture.table.die(pid(), 0);
    fixture.table.reap(pid());
    fixture.table.spawn(pid(), STARTED + 3);
    assert_eq!(fixture.verdict(), "reused by pidfd");
}

#[test]
fn a_process_with_unreaped_dead_threads_is_gone() {
    for why in [Unread::Traced, Unread::NamespaceInit] {
        for system in SYSTEMS {
            let fixture = live_process(system);
            fixture.table.die_unread(pid(), why);
            assert_eq!(fixture.verdict(), "gone by stat", "{system:?}");
        }
    }
}

#[test]
fn an_unreaped_zombie_is_gone() {
    let expected = [
        "gone by pidfd",
        "gone by pidfd",
        "gone by stat",
        "gone by stat",
    ];
    for (system, expected) in SYSTEMS.into_iter().zip(expected) {
        let fixture = live_process(system);
        fixture.table.die(pid(), 9);
        assert_eq!(fixture.verdict(), expected, "{system:?}");
    }
}

#[test]
fn a_reaped_process_is_gone() {
    let expected = [
        "gone by pidfd",
        "gone by pidfd",
        "gone by stat",
        "gone by stat",
    ];
    for (system, expected) in SYSTEMS.into_iter().zip(expected) {
        let fixture = live_process(system);
        fixture.table.die(pid(), 9);
        fixture.table.reap(pid());
        assert_eq!(fixture.verdict(), expected, "{system:?}");
    }
}

#[test]
fn a_successor_under_the_same_pid_is_not_the_process() {
    let expected = [
        "gone by pidfd",
        "reused by pidfd",
        "gone by stat",
        "reused by start_time",
    ];
    for (system, expected) in SYSTEMS.into_iter().zip(expected) {
        let fixture = live_process(system);
        fixture.table.die(pid(), 0);
        fixture.table.reap(pid());
        fixture.table.spawn(pid(), STARTED + 3);
        assert_eq!(fixture.verdict(), expected, "{system:?}");
    }
}

#[test]
fn only_the_pid_mode_mistakes_a_successor_of_the_same_tick() {
    let expected = ["gone by pidfd", "reused by pidfd", "gone by stat", "alive"];
    for (system, expected) in SYSTEMS.into_iter().zip(expected) {
        let fixture = live_process(system);
        fixture.table.die(pid(), 0);
        fixture.table.reap(pid());
        fixture.table.spawn(pid(), STARTED);
        assert_eq!(fixture.verdict(), expected, "{system:?}");
    }
}

#[test]
fn a_hidden_entry_proves_nothing_while_the_pid_is_in_use() {
    let fixture = live_process(System::PidsOnly);
    fixture.refuse(|refusals| refusals.stat = Some(Errno::NOENT));
    assert_eq!(fixture.verdict(), "unknown: hidden");
    fixture.table.die(pid(), 0);
    fixture.table.reap(pid());
    assert_eq!(fixture.verdict(), "gone by stat");
}

#[test]
fn a_hidden_proc_does_not_affect_a_pidfd() {
    for system in [System::Pidfds, System::InodesOnly] {
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
        let fixture = live_process(System::Pidfds);
        fixture.refuse(|refusals| refusals.poll = Some(errno));
        assert_eq!(fixture.verdict(), unknown);

        let fixture = live_process(System::InodesOnly);
        fixture.refuse(|refusals| {
            refusals.pidfd_open = Some(errno);
            refusals.stat = Some(errno);
        });
        assert_eq!(fixture.verdict(), unknown);

        for system in [System::StatFilesOnly, System::PidsOnly] {
            let fixture = live_process(system);
            fixture.refuse(|refusals| refusals.stat = Some(errno));
            assert_eq!(fixture.verdict(), unknown, "{system:?}");
        }
    }
}

#[test]
fn without_descriptors_an_inode_falls_back_to_pid_and_start_time() {
    let fixture = live_process(System::InodesOnly);
    fixture.refuse(|refusals| refusals.pidfd_open = Some(Errno::MFILE));
    assert_eq!(fixture.verdict(), "alive");
    fixture.table.die(pid(), 0);
    assert_eq!(fixture.verdict(), "gone by stat");
}

#[test]
fn an_unreadable_inode_does_not_mean_another_process() {
    let fixture = live_process(System::InodesOnly);
    fixture.refuse(|refusals| refusals.no_inode = true);
    assert_eq!(fixture.verdict(), "alive");
    fixture.table.die(pid(), 0);
    assert_eq!(fixture.verdict(), "gone by stat");
}

#[test]
fn a_pid_that_cannot_be_checked_is_kept() {
    let fixture = live_process(System::PidsOnly);
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
fn a_group_dead_report_fits_only_its_start_time() {
    let fixture = live_process(System::Pidfds);
    let alive_at_ns = fixture.identity.alive_at_ns;
    let judged = |start_time, at_ns| {
        let start_time = StartTime(start_time);
        let report = GroupDead { start_time, at_ns };
        judge(&fixture.identity, Some(report), &fixture.table)
    };
    assert!(matches!(
        judged(STARTED + 1, alive_at_ns + 1),
        Verdict::Alive
    ));
    assert!(matches!(
        judged(STARTED, alive_at_ns + 1),
        Verdict::Gone {
            evidence: Evidence::GroupDead,
            pid_reused: false
        }
    ));
}

#[test]
fn a_group_dead_report_of_a_predecessor_in_the_same_tick_is_ignored() {
    let fixture = live_process(System::Pidfds);
    let report = GroupDead {
        start_time: StartTime(STARTED),
        at_ns: fixture.identity.alive_at_ns - 1,
    };
    assert!(matches!(
        judge(&fixture.identity, Some(report), &fixture.table),
        Verdict::Alive
    ));
}

#[test]
fn a_group_dead_report_is_ignored_if_the_start_time_is_unknown() {
    let table = FakeTable::default();
    table.spawn(pid(), STARTED);
    table.refuse(Refusals {
        stat: Some(Errno::NOENT),
        ..Refusals::default()
    });
    let identity = Identity::pin(&table, &FdBudget::new(1), pid()).unwrap();
    assert!(identity.start_time.is_none());
    let report = GroupDead {
        start_time: StartTime(STARTED),
        at_ns: u64::MAX,
    };
    assert!(matches!(
        judge(&identity, Some(report), &table),
        Verdict::Alive
    ));
}

#[test]
fn an_unreadable_process_is_alive_while_its_pid_is_in_use() {
    let table = FakeTable::default();
    table.spawn(pid(), STARTED);
    table.refuse(Refusals {
        pidfd_open: Some(Errno::PERM),
        stat: Some(Errno::NOENT),
        ..Refusals::default()
    });
    let identity = Identity::pin(&table, &FdBudget::new(10), pid()).unwrap();
    assert_eq!(identity.strength(), Strength::Pid);
    assert!(matches!(judge(&identity, None, &table), Verdict::Alive));
    table.die(pid(), 0);
    table.reap(pid());
    assert!(matches!(
        judge(&identity, None, &table),
        Verdict::Gone {
            evidence: Evidence::Stat,
            pid_reused: false
        }
    ));
}

#[test]
fn a_process_of_unknown_start_time_is_distinguished_from_a_successor() {
    let table = FakeTable::default();
    table.spawn(pid(), STARTED);
    table.set_now(STARTED + 5);
    let hidden = Refusals {
        pidfd_open: Some(Errno::MFILE),
        stat: Some(Errno::MFILE),
        ..Refusals::default()
    };
    table.refuse(hidden);
    let mut identity = Identity::pin(&table, &FdBudget::new(10), pid()).unwrap();
    assert_eq!(identity.strength(), Strength::Pid);
    table.refuse(Refusals::default());
    assert!(matches!(judge(&identity, None, &table), Verdict::Alive));

    table.die(pid(), 0);
    table.reap(pid());
    table.spawn(pid(), STARTED + 6);
    assert!(matches!(
        judge(&identity, None, &table),
        Verdict::Gone {
            evidence: Evidence::StartTime,
            pid_reused: true
        }
    ));
    assert!(!identity.complete(&table), "a successor was taken for it");
}

#[test]
fn the_real_table_shows_this_process_alive_and_a_child_gone() {
    let table: Arc<dyn ProcessTable> = crate::sys::process_table::of_this_system();
    let budget = FdBudget::from_limits();
    let own_pid = Pid::new(std::process::id()).unwrap();
    let ourselves = Identity::pin(table.as_ref(), &budget, own_pid).unwrap();
    assert!(matches!(
        judge(&ourselves, None, table.as_ref()),
        Verdict::Alive
    ));

    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("cat runs everywhere");
    let identity =
        Identity::pin(table.as_ref(), &budget, Pid::try_from(child.id()).unwrap()).unwrap();
    assert!(matches!(
        judge(&identity, None, table.as_ref()),
        Verdict::Alive
    ));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(
        judge(&identity, None, table.as_ref()),
        Verdict::Gone { .. }
    ));
}
