//! Shared by several tests of this module.

use std::sync::Arc;

use reaper_registry::{
    BootTime, Details, Moment, NewSession, Pid, Process, ProcessId, Registry, Session, SessionId,
    Token, TokenKey, Ttl,
};

pub(super) fn session() -> Arc<Session> {
    let registry = Registry::builder(TokenKey::new([7; 16])).build();
    let new = NewSession {
        id: SessionId::new("s-1"),
        token: Token::from_bytes([0xab; 32]),
        process: Process::new(ProcessId(1), Pid::new(4242).unwrap(), None),
        further: Vec::new(),
        owner: 1000,
        details: Details {
            mesh: "dev\n".into(),
            display_name: "api".into(),
            labels: [("job", "7"), ("empty", "")].into_iter().collect(),
            ..Details::default()
        },
        presence: None,
        ttl: Ttl::Default,
    };
    let now = Moment {
        boot: BootTime::from_nanos(1),
        wall_ms: 1_795_324_800_000,
    };
    let stored = registry.register(new, now);
    stored.unwrap().session
}
