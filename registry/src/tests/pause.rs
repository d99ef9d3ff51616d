//! During a pause nothing changes, and afterwards everything can.

use std::sync::Arc;

use super::journal::Ledger;
use super::support::*;
use crate::*;

fn source_state() -> SourceState {
    SourceState {
        source: Source::Pidfd,
        health: SourceHealth::Down,
        reason: String::new(),
    }
}

#[test]
fn a_paused_registry_refuses_every_change_and_is_read_as_before() {
    let ledger = Arc::new(Ledger::default());
    let registry = builder().journal(ledger.clone()).build();
    let kept = registry
        .register(session("kept", 1), at(1))
        .unwrap()
        .session;
    let (mut events, _) = registry.subscribe(None);
    let before = format!("{:?}", ledger.state());
    registry.pause();
    registry.pause();
    assert!(registry.is_paused());

    let refused = registry.register(session("new", 2), at(2));
    assert_eq!(refused.unwrap_err(), RegisterError::Paused);
    let renewed = registry.register(session("kept", 1), at(2));
    assert_eq!(renewed.unwrap_err(), RegisterError::Paused);
    assert!(registry.deregister(&token(1), at(2)).is_none());
    let removal = Removal::Requested;
    assert!(registry.remove_entry(kept.entry, removal, at(2)).is_none());
    assert!(registry.remove_unchanged(&kept, removal, at(2)).is_none());
    assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(2)), 0);
    assert_eq!(registry.expire(at(1_000_000)), 0);
    assert!(
        registry.resolve(&token(1), at(1_000_000)).is_none(),
        "it is too old"
    );
    registry.publish_source_state(source_state(), at(2));
    registry.publish_shutdown(at(2));
    assert!(matches!(events.poll_next(), Next::Empty));
    assert!(registry.resolve(&token(1), at(2)).is_some());
    assert_eq!(
        format!("{:?}", ledger.state()),
        before,
        "nothing is written"
    );

    registry.end_pause();
    let Next::Event(first) = events.poll_next() else {
        panic!("the state of the source has waited");
    };
    assert!(matches!(first.kind, EventKind::SourceState(_)));
    assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(3)), 1);
    assert!(matches!(events.poll_next(), Next::Event(_)));
    assert!(matches!(events.poll_next(), Next::Empty), "no shutdown");
    assert!(registry.register(session("new", 2), at(4)).is_ok());
}
