//! Registering a token again: a renewal for its own process, refused for any other.

use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::*;

#[test]
fn a_renewal_restarts_the_lifetime_and_replaces_the_details_without_an_event() {
    let (registry, hook_log) = logged(builder().ttl(Duration::from_secs(10)));
    let (mut events, _) = registry.subscribe(None);
    let first = put(&registry, "a", 1, at(1));
    let mut again = session("a", 1);
    again.details.display_name = "renamed".into();
    let Stored { session, renewed } = registry.register(again, at(9)).unwrap();
    assert!(renewed);
    assert_eq!(session.entry, first.entry);
    assert_eq!(session.registered_at, at(9));
    let found = registry.resolve(&token(1), at(19)).unwrap();
    assert_eq!(&*found.details.display_name, "renamed");
    assert!(Arc::ptr_eq(&found, &registry.list()[0]));
    registry.check_invariants();
    assert!(registry.resolve(&token(1), at(20)).is_none());
    assert_eq!(drain(&mut events).len(), 2);
    assert_eq!(hook_log.lines(), ["+a#1", "-a#1 expired"]);
}

#[test]
fn a_renewal_can_lengthen_and_shorten_the_lifetime() {
    let registry = builder().ttl(Duration::from_secs(10)).build();
    let renew = |ttl, now| {
        let new = NewSession {
            ttl,
            ..session("a", 1)
        };
        let stored = registry.register(new, now).unwrap();
        registry.check_invariants();
        stored.renewed
    };
    assert!(!renew(Ttl::Default, at(1)));
    assert!(renew(Ttl::Process, at(2)));
    assert_eq!(registry.expire(at(1_000)), 0);
    assert!(renew(Ttl::For(Duration::from_secs(1)), at(1_000)));
    assert_eq!(registry.expire(at(1_001)), 0);
    assert_eq!(registry.expire(at(1_002)), 1);
    assert!(!renew(Ttl::Default, at(1_003)), "the session had expired");
}

/// A program that was started with `ttl: process` and a token file may register again without either.
#[test]
fn a_renewal_keeps_the_lifetime_and_token_file_that_it_does_not_name() {
    let registry = builder().ttl(Duration::from_secs(10)).build();
    let mut first = NewSession {
        ttl: Ttl::Process,
        ..session("a", 1)
    };
    first.details.token_file = Some("/run/t".into());
    let register = |new| registry.register(new, at(1)).unwrap().session;
    register(first);
    for name in ["a", "b"] {
        let again = register(session(name, 1));
        assert_eq!(
            again.details.token_file.as_deref(),
            Some("/run/t"),
            "{name}"
        );
    }
    assert_eq!(registry.expire(at(12)), 1, "another id is a new session");

    register(NewSession {
        ttl: Ttl::Process,
        ..session("c", 2)
    });
    register(session("c", 2));
    assert_eq!(registry.expire(at(1_000)), 0);
}

/// A reader may select sessions by mesh and labels. It must see the end of each session that it has seen.
#[test]
fn another_mesh_or_other_labels_replace_the_session() {
    let (registry, hook_log) = logged(builder());
    let register = |mesh: &str, job: &str| {
        let mut new = session("a", 1);
        new.details.mesh = mesh.into();
        new.details.labels = [("job", job)].into_iter().collect();
        new.details.token_file = (job == "7").then(|| "/run/t".into());
        let stored = registry.register(new, at(1)).unwrap();
        registry.check_invariants();
        let found = registry.resolve(&token(1), at(1)).unwrap();
        assert!(Arc::ptr_eq(&found, &stored.session));
        assert_eq!(found.details.token_file.as_deref(), Some("/run/t"));
        stored.renewed
    };
    let renewed =
        [("m", "7"), ("m", "7"), ("m", "8"), ("n", "8"), ("n", "8")].map(|it| register(it.0, it.1));
    assert_eq!(renewed, [false, true, false, false, true]);
    assert_eq!(registry.len(), 1);
    let lines = ["+a#1", "-a#1 replaced", "+a#2", "-a#2 replaced", "+a#3"];
    assert_eq!(hook_log.lines(), lines);
}

#[test]
fn remove_unchanged_does_not_remove_a_renewed_session() {
    let registry = registry();
    let first = put(&registry, "a", 1, at(1));
    let second = put(&registry, "a", 1, at(2));
    let take_back = |session| registry.remove_unchanged(session, Removal::Requested, at(3));
    assert!(take_back(&first).is_none());
    assert!(registry.resolve(&token(1), at(3)).is_some());
    assert!(take_back(&second).is_some());
    assert!(registry.is_empty());
}

#[test]
fn a_look_up_that_races_a_renewal_removes_only_an_expired_session() {
    // The caller of the look-up read the clock and took the lock after the renewal.
    let registry = builder().ttl(Duration::from_secs(1)).build();
    let old = put(&registry, "a", 1, at(1));
    put(&registry, "a", 1, at(2));
    assert!(old.has_expired(at(3).boot));
    let now = registry.expire_entry(old.entry, at(3));
    assert_eq!(now.map(|session| session.registered_at), Some(at(2)));
    assert!(registry.expire_entry(old.entry, at(4)).is_none());
    assert!(registry.is_empty());
}

#[test]
fn a_renewed_session_has_the_new_key_and_the_old_value_has_none() {
    let registry = registry();
    let with_key = || NewSession {
        presence: Some(presence()),
        ..session("a", 1)
    };
    let register = |new| registry.register(new, at(1)).unwrap();
    let first = register(with_key()).session;
    let second = register(with_key()).session;
    assert!(!has_secret(&first) && has_secret(&second));
    let third = register(session("a", 1));
    assert!(third.renewed && !has_secret(&third.session));
    assert!(!has_secret(&second), "this registration had no key");
}

#[test]
fn another_process_cannot_register_the_token_of_a_live_session() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    for name in ["a", "b"] {
        let error = refused(&registry, of_process(2, session(name, 1)));
        assert_eq!(error, RegisterError::TokenInUse, "{name}");
    }
    assert!(registry.resolve(&token(1), at(2)).is_some());
    // After the session has been removed, for any cause, the token is free.
    registry.remove_process(ProcessId(1), DEATH, at(3));
    let stored = registry.register(of_process(2, session("b", 1)), at(3));
    assert!(!stored.unwrap().renewed);
}

#[test]
fn the_token_is_checked_before_limits() {
    let limits = Limits {
        sessions: 2,
        sessions_per_owner: 1,
        ..Limits::default()
    };
    let registry = builder().strict_replace(true).limits(limits).build();
    put(&registry, "a", 1, at(1));
    let other_user = |new| NewSession { owner: 1001, ..new };
    let second = other_user(of_process(3, session("b", 2)));
    registry.register(second, at(1)).unwrap();
    let refused = |new| refused(&registry, new);
    let stolen = other_user(session("b", 1));
    assert_eq!(refused(stolen), RegisterError::TokenInUse);
    let stolen = of_process(2, session("a", 1));
    assert_eq!(refused(stolen), RegisterError::TokenInUse);
    assert_eq!(refused(session("a", 9)), RegisterError::NeedsOldToken);
    let limit = RegisterError::TooManySessions { limit: 2 };
    assert_eq!(refused(session("c", 9)), limit);
}
