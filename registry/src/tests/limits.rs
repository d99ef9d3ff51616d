//! Refused registrations, which must change nothing.

use std::time::Duration;

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
        ..Limits::default()
    };
    builder().limits(limits).build()
}

#[test]
fn a_full_registry_refuses_a_new_session_but_accepts_a_replacement() {
    let registry = limited_to(2, 2);
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 2, at(1));
    let error = refused(&registry, of_owner(1001, "c", 3));
    assert_eq!(error, RegisterError::TooManySessions { limit: 2 });
    put(&registry, "a", 3, at(2));
    put(&registry, "c", 2, at(2));
    put(&registry, "a", 2, at(2));
    put(&registry, "d", 4, at(2));
    assert_eq!(registry.len(), 2);
}

#[test]
fn new_rules_hold_for_what_is_registered_then() {
    let registry = limited_to(2, 2);
    let a = put(&registry, "a", 1, at(1));
    put(&registry, "b", 2, at(1));
    let rules = Rules {
        ttl: Some(Duration::from_secs(5)),
        max_ttl: None,
        limits: Limits {
            sessions: 1,
            ..Limits::default()
        },
        strict_replace: true,
    };
    registry.set_rules(rules);
    assert_eq!(registry.len(), 2, "lower limits remove nothing");
    let error = refused(&registry, session("c", 3));
    assert_eq!(error, RegisterError::TooManySessions { limit: 1 });
    assert_eq!(
        refused(&registry, session("a", 3)),
        RegisterError::NeedsOldToken
    );
    registry.set_rules(Rules {
        limits: Limits::default(),
        ..rules
    });
    let c = put(&registry, "c", 3, at(2));
    assert_eq!(c.expires_at.unwrap().boot, at(7).boot);
    assert_eq!(
        registry.list()[0].expires_at,
        a.expires_at,
        "a stored session keeps its lifetime"
    );
}

#[test]
fn one_user_cannot_use_up_the_limit_of_another() {
    let registry = limited_to(10, 1);
    put(&registry, "a", 1, at(1));
    let error = refused(&registry, session("b", 2));
    let expected = RegisterError::TooManyForOwner {
        owner: 1000,
        limit: 1,
    };
    assert_eq!(error, expected);
    registry.register(of_owner(1001, "b", 2), at(2)).unwrap();
}

#[test]
fn a_share_bounds_what_a_user_adds_and_takes_nothing_back() {
    let limits = Limits {
        sessions: 10,
        sessions_per_owner: 6,
        ..Limits::default()
    };
    // Half for a user that is not alone.
    let share = |claim: &Claim<'_>| {
        let held: usize = claim.others.iter().map(|(_, held)| held).sum();
        (claim.total - held) / (1 + claim.others.len())
    };
    let registry = builder().limits(limits).share_by(share).build();
    for token in 1..=6 {
        put(&registry, &token.to_string(), token, at(1));
    }
    assert_eq!(registry.usage(1_000).most_sessions, 6, "the limit of one");
    registry.register(of_owner(1_001, "a", 7), at(1)).unwrap();
    registry.register(of_owner(1_001, "b", 8), at(1)).unwrap();
    let refused_at = |owner, limit| {
        let error = refused(&registry, of_owner(owner, "x", 9));
        assert_eq!(error, RegisterError::TooManyForOwner { owner, limit });
    };
    refused_at(1_001, 2);
    assert_eq!(registry.usage(1_000).most_sessions, 4, "less than it has");
    refused_at(1_000, 6);
    put(&registry, "1", 1, at(2));
    put(&registry, "1", 10, at(2));
    assert_eq!(registry.usage(1_000).sessions, 6);
}

#[test]
fn expired_sessions_do_not_count() {
    let registry = limited_to(1, 1);
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 2, at(200_000));
    assert_eq!(registry.len(), 1);
}

#[test]
fn two_users_have_the_same_session_id_and_neither_replaces_the_other() {
    let (registry, hook_log) = logged(builder());
    put(&registry, "a", 1, at(1));
    let other = registry.register(of_owner(1001, "a", 2), at(2)).unwrap();
    assert!(!other.renewed);
    put(&registry, "a", 3, at(3));
    assert_eq!(hook_log.lines(), ["+a#1", "+a#2", "-a#1 replaced", "+a#3"]);
    let named = |owner| registry.session_named(owner, &id("a")).map(|s| s.entry);
    let entries = [1000, 1001, 1002].map(named);
    assert_eq!(entries, [Some(EntryId(3)), Some(EntryId(2)), None]);
    let owners = registry.sessions_named(&id("a"));
    let owners: Vec<_> = owners.iter().map(|session| session.owner).collect();
    assert_eq!(owners, [1000, 1001]);
    registry.check_invariants();
}

#[test]
fn the_token_of_another_user_cannot_be_registered() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    for name in ["a", "b"] {
        let error = refused(&registry, of_owner(1001, name, 1));
        assert_eq!(error, RegisterError::TokenInUse, "{name}");
    }
}

/// A session whose working directory has this length.
fn with_cwd(name: &str, token_number: u64, length: usize) -> NewSession {
    let mut new = session(name, token_number);
    new.details.cwd = Some("x".repeat(length).into());
    new
}

#[test]
fn a_user_cannot_exceed_his_bytes_and_gets_them_back() {
    let size = with_cwd("a", 1, 1_000).bytes();
    assert!((1_000..2_000).contains(&size), "{size}");
    let limits = Limits {
        bytes: 3 * size,
        bytes_per_owner: 2 * size,
        ..Limits::default()
    };
    let registry = builder().limits(limits).build();
    let register = |new| registry.register(new, at(1)).map(|stored| stored.renewed);
    assert_eq!(register(with_cwd("a", 1, 1_000)), Ok(false));
    assert_eq!(register(with_cwd("b", 2, 1_000)), Ok(false));
    let usage = registry.usage(1000);
    assert_eq!(
        (usage.sessions, usage.bytes, usage.events),
        (2, 2 * size, 2)
    );
    let full = RegisterError::TooManyBytesForOwner {
        owner: 1000,
        limit: 2 * size,
    };
    assert_eq!(refused(&registry, session("c", 3)), full);
    // A renewal may not grow beyond the limit either, but it may shrink, and a replacement frees.
    assert_eq!(refused(&registry, with_cwd("a", 1, 1_001)), full);
    assert_eq!(register(with_cwd("a", 1, 1_000)), Ok(true));
    assert_eq!(register(with_cwd("b", 3, 1_000)), Ok(false));
    let other = |token_number, length| NewSession {
        owner: 1001,
        ..with_cwd("a", token_number, length)
    };
    let all = RegisterError::TooManyBytes { limit: 3 * size };
    assert_eq!(refused(&registry, other(4, 1_001)), all);
    assert_eq!(register(other(4, 1_000)), Ok(false));
    assert_eq!(register(with_cwd("a", 1, 10)), Ok(true));
    assert_eq!(registry.usage(1000).bytes, 2 * size - 990);
    registry.remove_process(ProcessId(1), DEATH, at(2));
    assert_eq!(registry.usage(1000).bytes, 0);
    registry.check_invariants();
}

#[test]
fn labels_are_charged_to_their_owner() {
    let labelled = |length: usize| {
        let mut new = session("a", 1);
        new.details.labels = [("key", "x".repeat(length))].into_iter().collect();
        new
    };
    let size = labelled(1_000).bytes();
    assert!(size >= session("a", 1).bytes() + 1_000, "{size}");
    let limits = Limits {
        bytes_per_owner: size,
        ..Limits::default()
    };
    let registry = builder().limits(limits).build();
    let owner = 1000;
    let full = RegisterError::TooManyBytesForOwner { owner, limit: size };
    assert_eq!(refused(&registry, labelled(1_001)), full);
    registry.register(labelled(1_000), at(1)).unwrap();
    assert_eq!(registry.usage(owner).bytes, size);
    let without = registry.register(session("a", 1), at(2)).unwrap();
    assert!(without.session.labels().is_empty());
    assert!(registry.usage(owner).bytes < size - 1_000);
}

#[test]
fn pages_have_every_session_of_their_owner_once_and_end() {
    let registry = registry();
    for number in 0..7 {
        put(&registry, &number.to_string(), number, at(1));
        registry
            .register(of_owner(1001, "x", 100 + number), at(1))
            .unwrap();
    }
    let read = |owner| {
        let (mut entries, mut after) = (Vec::new(), None);
        loop {
            let page = registry.page(after, owner, 2);
            assert!(page.len() <= 2);
            let Some(last) = page.last() else {
                return entries;
            };
            after = Some(last.entry);
            entries.extend(page.iter().map(|session| session.entry.0));
        }
    };
    assert_eq!(read(Some(1000)), [1, 3, 5, 7, 9, 11, 13]);
    assert_eq!(read(Some(1001)), [14], "the others have been replaced");
    assert_eq!(read(None).len(), 8);
    assert_eq!(read(Some(7)), [] as [u64; 0]);
}

#[test]
fn strict_replacement_requires_the_token_of_the_live_session() {
    let registry = builder().strict_replace(true).build();
    put(&registry, "a", 1, at(1));
    let error = refused(&registry, session("a", 2));
    assert_eq!(error, RegisterError::NeedsOldToken);
    put(&registry, "a", 1, at(2));
    // Its token under another id is accepted; the old id is then free.
    put(&registry, "b", 1, at(3));
    put(&registry, "a", 2, at(3));
    assert_eq!(registry.len(), 2);
}
