//! Whatever instruction a process is stopped at, what is read back is the state before or after a change.

mod former;
mod stopped;

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::*;

use super::header;
use super::{Identity, MemoryFile};
use crate::daemon::carried::TABLE_FORMAT;
use crate::sys::secret_arena::SecretArena;

const SECRET: &str = "c0ffee00deadbeefc0ffee00deadbeefc0ffee00deadbeefc0ffee00deadbeef\
                      c0ffee00deadbeefc0ffee00deadbeefc0ffee00deadbeefc0ffee00deadbeef";
const EVENTS: usize = 6;

fn identity() -> Identity {
    Identity::of_this_process(7, Some(1)).unwrap()
}

fn at(seconds: u64) -> Moment {
    Moment {
        boot: BootTime::from_nanos(seconds * 1_000_000_000),
        wall_ms: 5_000 + seconds,
    }
}

fn token(number: u8) -> Token {
    Token::from_bytes([number; 32])
}

/// Every third session has labels.
fn labels(number: u8) -> Labels {
    let labels = [("empty", String::new()), ("job/ü", number.to_string())];
    let has_labels = number.is_multiple_of(3);
    labels.into_iter().filter(|_| has_labels).collect()
}

fn builder() -> RegistryBuilder {
    Registry::builder(TokenKey::new([7; 16])).event_capacity(EVENTS)
}

/// A registry with its memory file and the memory of its secrets.
struct Daemon {
    registry: Registry,
    file: Arc<MemoryFile>,
    arena: SecretArena,
}

impl Daemon {
    fn new() -> Self {
        let file = Arc::new(MemoryFile::create(&identity()).unwrap());
        Self {
            registry: builder().journal(file.clone()).build(),
            file,
            arena: SecretArena::new(),
        }
    }

    /// What another process reads.
    fn read(&self) -> (Self, usize) {
        let arena = SecretArena::open(self.arena.descriptor().unwrap()).unwrap();
        let fd = self.file.descriptor().unwrap();
        let found = MemoryFile::read(fd, &identity(), |slot| arena.adopt(slot)).unwrap();
        let file = Arc::new(found.file);
        let builder = builder().journal(file.clone()).restore(found.state);
        let next = Self {
            registry: builder.build(),
            file,
            arena,
        };
        (next, found.damaged)
    }

    /// As [`Self::read`], and the former process has ended.
    fn restart(&self) -> Self {
        let (next, damaged) = self.read();
        assert_eq!(damaged, 0);
        next.arena.begin();
        next.file.begin();
        next
    }

    /// Some tokens are of sessions of several processes.
    fn register(&self, id: &str, number: u8, process: u64, cwd: usize, now: Moment) {
        let has_key = number.is_multiple_of(2);
        let key = || SecretKey::parse_into(self.arena.take(), SECRET).unwrap();
        let several = if number % 4 == 3 { 2 } else { 0 };
        let further = (1..=several).map(|more| (process + more) % 3);
        let pinned = |id| {
            let start_time = Some(StartTime(8));
            Process::new(ProcessId(id), Pid::new(42).unwrap(), start_time).with_inode(Some(99))
        };
        let new = NewSession {
            id: id.into(),
            token: token(number),
            process: pinned(process),
            further: further.map(pinned).collect(),
            owner: 1_000 + u32::from(number % 3),
            details: Details {
                mesh: "mesh".into(),
                display_name: "näme".into(),
                cwd: Some("x".repeat(cwd).into()),
                role: None,
                groups: ["g1".into(), "g2".into()].into(),
                labels: labels(number),
                token_file: Some("/run/token".into()),
            },
            presence: has_key.then(|| Presence {
                session_pubkey: "11".repeat(32).into(),
                secret_key: key(),
                attestation: Attestation {
                    session_pubkey: "22".repeat(32).into(),
                    parent_member_pubkey: "33".repeat(32).into(),
                    expires_at: 1.5,
                    signature: "signature".into(),
                },
            }),
            ttl: Ttl::For(Duration::from_secs(100)),
        };
        // Another process may have the token.
        self.registry
            .register(new, now)
            .map(drop)
            .unwrap_or_default();
    }

    /// All that can be seen of it.
    fn view(&self) -> View {
        let sessions = self.registry.list().into_iter().map(|it| of_session(&it));
        let mut reader = self.registry.resume(0, None).unwrap();
        let mut events = Vec::new();
        loop {
            match reader.poll_next() {
                Next::Event(event) => events.push(of_event(&event)),
                Next::Gap { missed_to, .. } => events.push(format!("up to {missed_to}")),
                Next::Empty => break,
            }
        }
        let owners = (1_000..1_003).map(|owner| self.registry.usage(owner));
        View {
            sessions: sessions.collect(),
            events,
            next: (reader.position(), self.registry.subscribe(None).1),
            usage: owners.collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct View {
    /// The public part, and the first bytes of the secret key.
    sessions: Vec<(String, Option<Vec<u8>>)>,
    events: Vec<String>,
    next: (u64, EntryId),
    usage: Vec<OwnerUsage>,
}

fn of_session(session: &Session) -> (String, Option<Vec<u8>>) {
    let key = session.with_secret_key(|key| key.map(|key| key.expose()[..4].to_vec()));
    (public_part(session), key)
}

fn public_part(session: &Session) -> String {
    let process = &session.process;
    format!(
        "{} {} {:?} {:?} {:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {} {:?} {:?} {:?}",
        session.entry,
        session.id,
        session.digest_bytes(),
        session.token_prefix,
        session.expires_at,
        session.registered_at,
        session.started_at,
        process.id,
        process.pid,
        process.start_time(),
        process.inode,
        session.details,
        session.owner,
        session.presence,
        session.details.token_file,
        session.members(),
    )
}

fn of_event(event: &Event) -> String {
    let what = match &event.kind {
        EventKind::Registered(session) => format!("+ {}", public_part(session)),
        EventKind::Deregistered(session, removal) => {
            format!("- {} {removal:?}", public_part(session))
        }
        other => format!("{other:?}"),
    };
    format!("{} {:?} {what}", event.seq, event.at)
}

#[test]
fn everything_is_read_back() {
    let daemon = Daemon::new();
    daemon.register("a", 1, 1, 10, at(1));
    daemon.register("b", 2, 1, 2_000, at(2));
    daemon.register("c", 4, 2, 0, at(3));
    daemon.register("b", 2, 1, 3_000, at(4));
    let exit = Exit {
        status: ExitStatus::Signal {
            signal: 9,
            core: false,
        },
        from: Source::Ebpf,
    };
    let death = Death {
        source: Source::Netlink,
        evidence: Evidence::GroupDead,
        pid_reused: true,
        exit: Some(exit),
        detection: Some(Duration::from_micros(3)),
    };
    daemon.registry.remove_process(ProcessId(2), death, at(5));
    // Of several processes one has ended.
    daemon.register("several", 3, 0, 10, at(5));
    daemon.registry.remove_process(ProcessId(0), death, at(5));
    let state = SourceState {
        source: Source::Sweep,
        health: SourceHealth::Degraded,
        reason: "slow".to_owned(),
    };
    daemon.registry.publish_source_state(state, at(6));
    let before = daemon.view();
    assert_eq!((before.sessions.len(), before.events.len()), (3, 6));
    let next = daemon.restart();
    assert_eq!(next.view(), before);
    assert!(next.registry.resolve(&token(2), at(7)).is_some());
    let gone = next.registry.recently_gone(&token(4), None, at(7)).unwrap();
    assert_eq!(gone.seq, 4);
    // And again, after changes.
    next.register("d", 6, 3, 0, at(8));
    next.registry.publish_shutdown(at(9));
    next.registry.deregister(&token(1), at(10));
    assert_eq!(next.restart().view(), next.view());
}

#[test]
fn reading_writes_nothing_and_a_start_that_is_given_up_changes_nothing() {
    let daemon = Daemon::new();
    daemon.register("a", 2, 1, 10, at(1));
    let before = daemon.view();
    drop(daemon.read());
    assert_eq!(daemon.view(), before, "the secret is still there");
    daemon.register("b", 4, 1, 10, at(2));
    assert_eq!(daemon.restart().view(), daemon.view());
}

#[test]
fn slots_that_no_record_names_are_wiped() {
    let daemon = Daemon::new();
    daemon.register("a", 2, 1, 10, at(1));
    let mut in_flight = daemon.arena.take();
    in_flight.bytes_mut().fill(0xee);
    let next = daemon.restart();
    assert_eq!(*in_flight.bytes(), [0; 64]);
    let key = next.view().sessions[0].1.clone();
    assert_eq!(key.expect("its key")[..3], [192, 255, 238]);
}

#[test]
fn space_is_used_again() {
    let daemon = Daemon::new();
    let (size, used) = daemon.file.size();
    for round in 0..3_000 {
        daemon.register("a", 2, 1, 1_000, at(round));
        daemon.register("a", 2, 1, 10, at(round));
        daemon.registry.deregister(&token(2), at(round));
    }
    assert_eq!(daemon.file.size().0, size);
    assert!(daemon.file.size().1 - used < 20_000);
    let next = daemon.restart();
    assert_eq!(next.file.size(), daemon.file.size());
}

#[test]
fn the_file_grows_with_the_sessions() {
    let daemon = Daemon::new();
    let (size, _) = daemon.file.size();
    for number in 0..200_u8 {
        daemon.register(&format!("s{number}"), number, 1, 9_000, at(1));
    }
    assert!(daemon.file.size().0 > size);
    assert_eq!(daemon.restart().view(), daemon.view());
}

#[test]
fn memory_goes_back_after_a_peak_unless_another_daemon_may_use_it() {
    let daemon = Daemon::new();
    let allocated = || {
        rustix::fs::fstat(daemon.file.descriptor().unwrap())
            .unwrap()
            .st_blocks
            * 512
    };
    for number in 0..250_u8 {
        daemon.register(&format!("s{number}"), number, 1, 20_000, at(1));
    }
    for number in 1..250_u8 {
        daemon.registry.deregister(&token(number), at(1));
    }
    // The history forgets the large ones.
    for round in 0..3_000 {
        daemon.register("a", 251, 1, 10, at(2 + round));
        daemon.registry.deregister(&token(251), at(2 + round));
    }
    let peak = allocated();
    daemon.file.lend(true);
    daemon.file.give_back().unwrap();
    assert_eq!(allocated(), peak);
    daemon.file.lend(false);
    daemon.file.give_back().unwrap();
    assert!(allocated() < peak - 3_000_000, "{peak} {}", allocated());
    let size = daemon.file.size();
    assert_eq!(daemon.restart().view(), daemon.view());
    // What was given back is used again.
    for number in 1..250_u8 {
        daemon.register(&format!("s{number}"), number, 1, 20_000, at(10_000));
    }
    assert_eq!(daemon.file.size().0, size.0);
    assert_eq!(daemon.restart().view(), daemon.view());
}

#[test]
fn a_damaged_record_is_left_out_and_counted() {
    let daemon = Daemon::new();
    daemon.register("a", 1, 1, 10, at(1));
    daemon.register("b", 5, 2, 10, at(2));
    // The content of the first record, which is behind the header.
    daemon
        .file
        .inner()
        .blocks
        .file
        .write(4_096 + 60, &[0xff; 8]);
    let (next, damaged) = daemon.read();
    assert_eq!(damaged, 2, "the session and its event");
    assert_eq!(next.registry.len(), 1);
    next.arena.begin();
    next.file.begin();
    next.register("c", 7, 3, 10, at(3));
    assert_eq!(next.restart().view(), next.view());
}

#[test]
fn a_file_of_another_format_boot_or_namespace_is_refused_and_left_as_it_is() {
    let daemon = Daemon::new();
    daemon.register("a", 2, 1, 10, at(1));
    let here = identity();
    let refused = |here: &Identity| {
        let fd = daemon.file.descriptor().unwrap();
        let error = MemoryFile::read(fd, here, |_| None)
            .map(|_| ())
            .unwrap_err();
        error.to_string()
    };
    let boot = [1; 16];
    let text = refused(&Identity {
        boot,
        ..here.clone()
    });
    assert_eq!(text, "it was written before the last boot");
    let pid_namespace = 1;
    let text = refused(&Identity {
        pid_namespace,
        ..here.clone()
    });
    assert_eq!(text, "it was written in another pid namespace");
    for (format, expected) in [(3, "reads up to 2"), (0, "reads from 1 on")] {
        header::set_format(&daemon.file.inner().blocks.file, format);
        let text = refused(&here);
        assert!(text.contains(expected) && text.contains(env!("CARGO_PKG_VERSION")));
    }
    // The former format is read, and what is written then is of this one.
    header::set_format(&daemon.file.inner().blocks.file, 1);
    assert_eq!(daemon.restart().view(), daemon.view());
    assert_eq!(header::format(&daemon.file.inner().blocks.file), 2);

    daemon.file.wipe();
    assert_eq!(refused(&here), "it is not a memory file of reaperd");
    let other = std::fs::File::open("/dev/null").unwrap().into();
    assert!(MemoryFile::read(other, &here, |_| None).is_err());
}

#[test]
fn the_file_cannot_be_shortened() {
    let daemon = Daemon::new();
    let fd = daemon.file.descriptor().unwrap();
    let error = rustix::fs::ftruncate(fd.as_fd(), 0).unwrap_err();
    assert_eq!(error, rustix::io::Errno::PERM);
}

#[test]
fn a_small_session_and_its_event_take_a_block_each() {
    const SESSIONS: usize = 2_000;
    let daemon = Daemon::new();
    let (_, empty) = daemon.file.size();
    let process = || Process::new(ProcessId(1), Pid::new(42).unwrap(), Some(StartTime(8)));
    let fill = |registry: &Registry| {
        let began = crate::clock::monotonic_ns();
        for number in 0..SESSIONS {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            let new = NewSession {
                id: SessionId::new(&format!("session-{number}")),
                token: Token::from_bytes(bytes),
                process: process(),
                further: Vec::new(),
                owner: 1_000,
                details: Details::default(),
                presence: None,
                ttl: Ttl::Process,
            };
            registry.register(new, at(1)).unwrap();
        }
        (crate::clock::monotonic_ns() - began) / SESSIONS as u64
    };
    let with = fill(&daemon.registry);
    let without = fill(&builder().build());
    let used = daemon.file.size().1 - empty;
    log::info!("{with} ns with and {without} ns without a journal for each registration");
    assert_eq!(used, (SESSIONS + EVENTS) * 256);
}
