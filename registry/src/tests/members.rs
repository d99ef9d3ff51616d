//! Sessions that hang on several processes: they stay to the last one, and know how each has ended.

use super::support::*;
use crate::*;

const CODE: fn(u8) -> Death = |code| Death {
    exit: Some(Exit {
        status: ExitStatus::Code(code),
        from: Source::Ebpf,
    }),
    ..DEATH
};

fn process(id: u64) -> Process {
    Process::new(ProcessId(id), Pid::new(100).unwrap(), None)
}

fn of_processes(processes: &[u64], new: NewSession) -> NewSession {
    NewSession {
        process: process(processes[0]),
        further: processes[1..].iter().map(|id| process(*id)).collect(),
        ..new
    }
}

fn ends(session: &Session) -> Vec<(u64, Option<MemberEnd>)> {
    let members = session.members().iter();
    members.map(|it| (it.process.id.0, it.end)).collect()
}

#[test]
fn the_session_stays_to_the_last_process_and_has_its_exit() {
    let (registry, hook_log) = logged(builder());
    let (mut events, _) = registry.subscribe(None);
    let mut new = of_processes(&[1, 2, 3], session("a", 1));
    new.presence = Some(presence());
    let entry = registry.register(new, at(1)).unwrap().session.entry;
    for (process, code, seconds) in [(2, 20, 2), (1, 10, 3)] {
        let count = registry.remove_process(ProcessId(process), CODE(code), at(seconds));
        assert_eq!(count, 1);
        // A second report says nothing new.
        assert_eq!(
            registry.remove_process(ProcessId(process), CODE(99), at(9)),
            0
        );
        let stays = registry.resolve(&token(1), at(3)).unwrap();
        assert_eq!(stays.entry, entry);
        assert!(has_secret(&stays));
        registry.check_invariants();
    }
    registry.remove_process(ProcessId(3), CODE(30), at(4));
    assert!(registry.resolve(&token(1), at(4)).is_none());
    assert_eq!(hook_log.lines(), ["+a#1", "-a#1 exited"]);
    let events = drain(&mut events);
    assert_eq!(events.len(), 2);
    let EventKind::Deregistered(last, removal) = &events[1].kind else {
        panic!("{events:?}");
    };
    assert_eq!(*removal, Removal::Died(CODE(30)));
    let end = |code, seconds| {
        let (at, death) = (at(seconds), CODE(code));
        Some(MemberEnd { at, death })
    };
    assert_eq!(
        ends(last),
        [(1, end(10, 3)), (2, end(20, 2)), (3, end(30, 4))]
    );
    assert!(!has_secret(last));
}

#[test]
fn a_session_that_is_removed_otherwise_shows_who_lived() {
    let registry = registry();
    let new = of_processes(&[1, 2], session("a", 1));
    registry.register(new, at(1)).unwrap();
    registry.remove_process(ProcessId(1), CODE(1), at(2));
    let removed = registry.deregister(&token(1), at(3)).unwrap();
    let living: Vec<_> = removed.living().map(|it| it.id).collect();
    assert_eq!(living, [ProcessId(2)]);
    assert!(registry.sessions_of(ProcessId(2)).is_empty());
}

#[test]
fn a_renewal_needs_a_process_that_lives_in_common() {
    let registry = registry();
    let put = |processes: &[u64], seconds| {
        let stored = registry.register(of_processes(processes, session("a", 1)), at(seconds));
        stored.map(|it| (it.session.entry, it.renewed))
    };
    let (entry, _) = put(&[1, 2], 1).unwrap();
    assert_eq!(put(&[3, 4], 2), Err(RegisterError::TokenInUse));
    assert_eq!(put(&[4, 2], 3), Ok((entry, true)));
    assert!(registry.sessions_of(ProcessId(1)).is_empty());
    registry.remove_process(ProcessId(2), CODE(0), at(4));
    // Process 2 has ended, and is no proof any more.
    assert_eq!(put(&[2], 5), Err(RegisterError::TokenInUse));
    assert_eq!(put(&[4], 6), Ok((entry, true)));
    assert_eq!(registry.list()[0].members().len(), 0);
    registry.remove_process(ProcessId(4), CODE(0), at(7));
    assert!(registry.is_empty());
}

#[test]
fn a_renewal_under_another_process_does_not_take_over_its_start_time() {
    let registry = registry();
    let mut new = of_processes(&[1, 2], session("a", 1));
    new.process = Process::new(ProcessId(1), Pid::new(7).unwrap(), Some(StartTime(70)));
    registry.register(new, at(1)).unwrap();
    let new = of_processes(&[2], session("a", 1));
    let renewed = registry.register(new, at(2)).unwrap().session;
    assert_eq!(renewed.process.start_time(), None);
}

#[test]
fn each_process_counts_as_a_session() {
    let limits = Limits {
        sessions: 6,
        sessions_per_owner: 4,
        ..Limits::default()
    };
    let registry = builder().limits(limits).build();
    let new = |count: u64, name, number| {
        let processes: Vec<_> = (1..=count).collect();
        of_processes(&processes, session(name, number))
    };
    registry.register(new(3, "a", 1), at(1)).unwrap();
    let most = RegisterError::TooManyForOwner {
        owner: 1000,
        limit: 4,
    };
    assert_eq!(refused(&registry, new(2, "b", 2)), most);
    registry.register(new(1, "b", 2), at(2)).unwrap();
    // What is replaced makes room.
    registry.register(new(3, "a", 3), at(3)).unwrap();
    assert_eq!(refused(&registry, new(4, "a", 4)), most);
    let of_another = NewSession {
        owner: 1001,
        ..new(3, "c", 5)
    };
    let all = RegisterError::TooManySessions { limit: 6 };
    assert_eq!(refused(&registry, of_another), all);
    // An end gives nothing back before the session goes.
    registry.remove_process(ProcessId(3), CODE(0), at(4));
    assert_eq!(registry.usage(1000).sessions, 4);
    assert_eq!(registry.len(), 2);
}

#[test]
fn an_unanswered_registration_is_undone_although_one_of_its_processes_has_ended() {
    let registry = registry();
    let new = of_processes(&[1, 2], session("a", 1));
    let stored = registry.register(new, at(1)).unwrap().session;
    registry.remove_process(ProcessId(1), CODE(0), at(2));
    let undone = registry.remove_unchanged(&stored, Removal::Requested, at(3));
    assert_eq!(undone.unwrap().entry, stored.entry);
    let new = of_processes(&[1, 2], session("a", 1));
    let stored = registry.register(new, at(4)).unwrap().session;
    let new = of_processes(&[1, 2], session("a", 1));
    registry.register(new, at(5)).unwrap();
    let undone = registry.remove_unchanged(&stored, Removal::Requested, at(6));
    assert!(undone.is_none(), "it was renewed");
}
