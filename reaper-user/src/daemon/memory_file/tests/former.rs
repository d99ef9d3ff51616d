//! A memory file of the former format, as the program that had it has written it.

use std::sync::atomic::Ordering;

use super::*;
use crate::sys::shared_file::SharedFile;

/// Sessions `a` and `b` (renewed) of one process, and the end of `c`.
const FILE: &[u8] = include_bytes!("../fixtures/format-1");
const FORMAT_AT: usize = 8;

fn word(at: usize) -> u64 {
    u64::from_le_bytes(FILE[at..at + 8].try_into().unwrap())
}

/// The boot and the namespace in which it was written.
fn there() -> Identity {
    Identity {
        boot: FILE[16..32].try_into().unwrap(),
        pid_namespace: word(32),
        ..identity()
    }
}

fn format(file: &SharedFile) -> u64 {
    file.word(FORMAT_AT).load(Ordering::Acquire) & u64::from(u32::MAX)
}

#[test]
fn a_file_of_the_former_format_is_read_and_has_the_present_one_from_its_first_change_on() {
    let copy = SharedFile::create("former").unwrap();
    copy.write(0, FILE);
    assert_eq!((format(&copy), TABLE_FORMAT), (1, 2));
    let fd = || copy.as_fd().try_clone_to_owned().unwrap();
    let found = MemoryFile::read(fd(), &there(), |_| None).unwrap();
    assert_eq!((found.damaged, found.identity.epoch), (0, 7));
    let file = Arc::new(found.file);
    let builder = builder().journal(file.clone()).restore(found.state);
    let former = Daemon {
        registry: builder.build(),
        file,
        arena: SecretArena::new(),
    };
    let sessions = former.registry.list();
    let ids: Vec<_> = sessions
        .iter()
        .map(|it| (it.id.as_str(), it.entry.0))
        .collect();
    assert_eq!(ids, [("a", 1), ("b", 2)]);
    assert_eq!(sessions[1].registered_at, at(4));
    assert_eq!(sessions[1].details.cwd.as_deref().map(str::len), Some(300));
    assert!(sessions.iter().all(|it| it.labels().is_empty()));
    assert!(sessions.iter().all(|it| it.started_at == it.registered_at));
    assert!(former.registry.resolve(&token(2), at(7)).is_some());
    let gone = former
        .registry
        .recently_gone(&token(4), None, at(7))
        .unwrap();
    assert!(of_event(&gone).contains("signal: 9"), "{}", of_event(&gone));
    let before = former.view();
    assert_eq!((before.events.len(), before.next.0), (5, 6));
    assert_eq!(format(&copy), 1, "reading writes nothing");

    former.file.begin();
    assert_eq!(format(&copy), u64::from(TABLE_FORMAT));
    former.register("d", 3, 1, 10, at(8));
    let found = MemoryFile::read(fd(), &there(), |_| None).unwrap();
    assert_eq!(found.damaged, 0);
    let last = found.state.sessions.iter().find(|it| it.id.as_str() == "d");
    assert_eq!(*last.unwrap().labels(), labels(3));
}
