//! Shared by the tests: small sessions, fixed times, deadlines, and a log of hook calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::*;

/// A test that waits this long has failed, on any machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
pub(super) const DEATH: Death = Death {
    source: Source::Pidfd,
    evidence: Evidence::Pidfd,
    pid_reused: false,
    exit: None,
    detection: None,
};

pub(super) fn builder() -> RegistryBuilder {
    Registry::builder(TokenKey::new([7; 16]))
}

pub(super) fn registry() -> Registry {
    builder().build()
}

/// Builds a registry with a log of its hook calls.
pub(super) fn logged(builder: RegistryBuilder) -> (Registry, HookLog) {
    let hook_log = HookLog::default();
    (hook_log.attach(builder).build(), hook_log)
}

/// Builds a registry whose hooks have a handle to it.
pub(super) fn with_handle_in_hooks(
    build: impl FnOnce(Arc<OnceLock<Registry>>) -> RegistryBuilder,
) -> Registry {
    let handle = Arc::new(OnceLock::new());
    let registry = build(handle.clone()).build();
    assert!(handle.set(registry.clone()).is_ok());
    registry
}

/// This many seconds after boot. The wall clock runs backwards, which must have no effect.
pub(super) fn at(seconds: u64) -> Moment {
    at_nanos(seconds * 1_000_000_000)
}

pub(super) fn at_nanos(nanos: u64) -> Moment {
    Moment {
        boot: BootTime::from_nanos(nanos),
        wall_ms: u64::MAX - nanos,
    }
}

pub(super) fn token(number: u64) -> Token {
    let mut bytes = [0xa5; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Token::from_bytes(bytes)
}

pub(super) fn id(name: &str) -> SessionId {
    SessionId::new(name)
}

/// A session of user 1000 and process 1.
pub(super) fn session(name: &str, token_number: u64) -> NewSession {
    NewSession {
        id: id(name),
        token: token(token_number),
        process: Process::new(ProcessId(1), Pid::new(4242).unwrap(), None),
        further: Vec::new(),
        owner: 1000,
        details: Details::default(),
        presence: None,
        ttl: Ttl::Default,
    }
}

pub(super) const SECRET_HEX: &str = "c0ffee00deadbeefc0ffee00deadbeefc0ffee00deadbeefc0ffee00deadbeef\
                                     c0ffee00deadbeefc0ffee00deadbeefc0ffee00deadbeefc0ffee00deadbeef";

pub(super) fn presence() -> Presence {
    Presence {
        session_pubkey: "11".repeat(32).into(),
        secret_key: SecretKey::parse(SECRET_HEX).unwrap(),
        attestation: Attestation {
            session_pubkey: "11".repeat(32).into(),
            parent_member_pubkey: "22".repeat(32).into(),
            expires_at: 1.5,
            signature: "signature".into(),
        },
    }
}

pub(super) fn put(registry: &Registry, name: &str, token_number: u64, now: Moment) -> Arc<Session> {
    registry
        .register(session(name, token_number), now)
        .unwrap()
        .session
}

/// Returns the error of a registration, and checks that it changed nothing and appended no event.
pub(super) fn refused(registry: &Registry, new: NewSession) -> RegisterError {
    let before = registry.list();
    let (mut events, _) = registry.subscribe(None);
    let error = registry.register(new, at(2));
    let after = registry.list();
    assert_eq!(before.len(), after.len());
    assert!(before.iter().zip(&after).all(|(b, a)| Arc::ptr_eq(b, a)));
    assert!(drain(&mut events).is_empty());
    registry.check_invariants();
    error.expect_err("to be refused")
}

/// The same session for another process.
pub(super) fn of_process(process: u64, new: NewSession) -> NewSession {
    NewSession {
        process: Process::new(ProcessId(process), Pid::new(4242).unwrap(), None),
        ..new
    }
}

pub(super) fn has_secret(session: &Session) -> bool {
    session.with_secret_key(|key| key.is_some())
}

/// One hook call or event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Registered(EntryId),
    Deregistered(EntryId, Removal),
}

impl Seen {
    pub(super) fn entry(self) -> EntryId {
        match self {
            Self::Registered(entry) | Self::Deregistered(entry, _) => entry,
        }
    }
}

/// A log of the hook calls of a registry, in order.
#[derive(Clone, Default)]
pub(super) struct HookLog(Arc<Mutex<Vec<(SessionId, Seen)>>>);

impl HookLog {
    pub(super) fn attach(&self, builder: RegistryBuilder) -> RegistryBuilder {
        let (registered, deregistered) = (self.clone(), self.clone());
        builder
            .on_register(move |session| registered.write(session, Seen::Registered(session.entry)))
            .on_deregister(move |session, removal| {
                deregistered.write(session, Seen::Deregistered(session.entry, *removal));
            })
    }

    pub(super) fn read(&self) -> Vec<(SessionId, Seen)> {
        self.0.lock().unwrap().clone()
    }

    /// As text: `+ID#ENTRY` for a registration, `-ID#ENTRY CAUSE` for a removal.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |(id, seen): (SessionId, Seen)| match seen {
            Seen::Registered(entry) => format!("+{id}#{}", entry.0),
            Seen::Deregistered(entry, removal) => format!("-{id}#{} {}", entry.0, removal.cause()),
        };
        self.read().into_iter().map(line).collect()
    }

    fn write(&self, session: &Session, seen: Seen) {
        self.0.lock().unwrap().push((session.id.clone(), seen));
    }
}

/// Reads all events that are available; panics on a gap.
pub(super) fn drain(subscription: &mut Subscription) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    loop {
        match subscription.poll_next() {
            Next::Event(event) => events.push(event),
            Next::Gap { .. } => panic!("a gap where none was expected"),
            Next::Empty => return events,
        }
    }
}

pub(super) fn seen(event: &Event) -> Option<(SessionId, Seen)> {
    match &event.kind {
        EventKind::Registered(session) => {
            Some((session.id.clone(), Seen::Registered(session.entry)))
        }
        EventKind::Deregistered(session, removal) => Some((
            session.id.clone(),
            Seen::Deregistered(session.entry, *removal),
        )),
        EventKind::SourceState(_) | EventKind::Shutdown => None,
    }
}

/// Receives a message; panics after [`DEADLINE`].
pub(super) fn receive<T>(channel: &Receiver<T>, what: &str) -> T {
    channel
        .recv_timeout(DEADLINE)
        .unwrap_or_else(|error| panic!("waited for {what}: {error}"))
}

/// Sets a flag when dropped, also by a panic, so that a failed test does not leave other threads running.
pub(super) struct SetOnDrop<'a>(pub(super) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs `work` on a new thread and panics after [`DEADLINE`], so that a deadlock fails the test.
pub(super) fn within_deadline<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    receive(&wait, what)
}
