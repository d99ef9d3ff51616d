//! Refused registrations, which must change nothing.

use super::support::*;
use crate::*;

fn of_owner(owner: u32, name: &str, token_number: u64) -> NewSession {
    NewSession {
        owner,
        ..session(name, token_number)
    }
}

fn limited_to(sessions: usize, sessions_per_owner: usize) -> Registry {
    let limits = Limits {
        sessions,
        sessions_per_owner,
    };
    builder().limits(limits).build()
}

#[test]
fn a_full_registry_refuses_a_new_session_but_accepts_a_replacement() {
    let registry = limited_to(2, 2);
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 2, at(1));
    let error = refused(&registry, of_owner(1001, "c", 3), Authority::Owner);
    assert_eq!(error, RegisterError::TooManySessions { limit: 2 });
    put(&registry, "a", 3, at(2));
    put(&registry, "c", 2, at(2));
    put(&registry, "a", 2, at(2));
    put(&registry, "d", 4, at(2));
    assert_eq!(registry.len(), 2);
}

#[test]
fn one_user_cannot_use_up_the_limit_of_another() {
    let registry = limited_to(10, 1);
    put(&registry, "a", 1, at(1));
    let error = refused(&registry, session("b", 2), Authority::Owner);
    let expected = RegisterError::TooManyForOwner {
        owner: 1000,
        limit: 1,
    };
    assert_eq!(error, expected);
    registry
        .register(of_owner(1001, "b", 2), Authority::Owner, at(2))
        .unwrap();
    // The right to replace other users' sessions does not raise the limit.
    let error = registry.register(session("b", 3), Authority::Any, at(2));
    assert_eq!(error.unwrap_err(), expected);
}

#[test]
fn expired_sessions_do_not_count() {
    let registry = limited_to(1, 1);
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 2, at(200_000));
    assert_eq!(registry.len(), 1);
}

#[test]
fn sessions_of_another_user_cannot_be_replaced() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    for stolen in [of_owner(1001, "a", 2), of_owner(1001, "b", 1)] {
        assert_eq!(
            refused(&registry, stolen, Authority::Owner),
            RegisterError::NotOwner
        );
    }
    let taken = registry.register(of_owner(1001, "a", 2), Authority::Any, at(2));
    assert_eq!(taken.unwrap().session.owner, 1001);
    assert_eq!(registry.len(), 1);
}

#[test]
fn strict_replacement_requires_the_token_of_the_live_session() {
    let registry = builder().strict_replace(true).build();
    put(&registry, "a", 1, at(1));
    let error = refused(&registry, session("a", 2), Authority::Owner);
    assert_eq!(error, RegisterError::NeedsOldToken);
    put(&registry, "a", 1, at(2));
    // Its token under another id is accepted; the old id is then free.
    put(&registry, "b", 1, at(3));
    put(&registry, "a", 2, at(3));
    assert_eq!(registry.len(), 2);
}
