//! Every fault that was once found here, by name.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::support::*;
use crate::*;

#[test]
fn a_token_that_registers_again_is_known_throughout() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _writing = TellsWhenDone(&done);
            // Once under its own name, once under another: both replace.
            for round in 0..20_000 {
                put(&registry, if round % 2 == 0 { "a" } else { "b" }, 1, at(1));
                put(&registry, "a", 1, at(1));
            }
        });
        while !done.load(Ordering::Relaxed) {
            assert!(registry.resolve(&token(1), at(1)).is_some());
        }
    });
    registry.check_invariants();
}

#[test]
fn a_borrowed_secret_key_holds_up_no_removal() {
    let registry = registry();
    let mut new = session("a", 1);
    new.presence = Some(presence());
    let stored = registry.register(new, Authority::Owner, at(1));
    let stored = stored.unwrap().session;
    let kept = stored.clone();
    let (removed, others) = (registry.clone(), registry.clone());
    within_deadline("a removal during a loan of the key", move || {
        stored.with_secret_key(|key| {
            assert!(removed.deregister(&token(1), at(2)).is_some());
            put(&others, "b", 2, at(2));
            assert!(key.is_some(), "the loan lasts");
        });
        assert!(!has_secret(&stored), "and is the last one");
    });
    assert!(!has_secret(&kept));
    assert_eq!(registry.len(), 1);
}

#[test]
fn waking_readers_holds_no_lock_and_its_panic_harms_nobody() {
    let (woken, wakes) = channel();
    let handle = Arc::new(OnceLock::<Registry>::new());
    let inner = handle.clone();
    let diary = Diary::default();
    let registry = diary
        .attach(builder().on_event(move || {
            // Would wait for ever if the table were locked.
            woken.send(inner.get().map(Registry::len)).unwrap();
            panic!("a bad wake-up");
        }))
        .build();
    assert!(handle.set(registry.clone()).is_ok());
    within_deadline("a wake-up that looks at the registry", move || {
        put(&registry, "a", 1, at(1));
        put(&registry, "b", 2, at(1));
        assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(2)), 2);
        registry.publish_shutdown(at(3));
        assert_eq!(registry.hook_panics(), 4);
    });
    let lengths: Vec<_> = wakes.try_iter().flatten().collect();
    assert_eq!(lengths, [1, 2, 0, 0], "once for both of one process");
    assert_eq!(diary.words().len(), 4, "the hooks run all the same");
}

#[test]
fn a_clock_that_was_read_before_a_wait_keeps_no_session_past_its_age() {
    let registry = builder().ttl(Duration::from_secs(10)).build();
    put(&registry, "a", 1, at(5));
    // Its caller read the clock first and got the lock second.
    let late = put(&registry, "b", 2, at(4));
    assert_eq!(registry.expire(at(14)), 0);
    assert_eq!(registry.expire(at_nanos(14_000_000_001)), 1);
    assert!(
        registry
            .remove_entry(late.entry, Removal::Expired, at(15))
            .is_none()
    );
    assert_eq!(registry.expire(at(15)), 0);
    assert_eq!(registry.expire(at_nanos(15_000_000_001)), 1);
}

#[test]
fn a_look_up_removes_the_expired_session_it_found_and_no_other() {
    let diary = Diary::default();
    let builder = builder().ttl(Duration::from_secs(10));
    let registry = diary.attach(builder).build();
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 2, at(1));
    assert!(registry.resolve(&token(2), at(12)).is_none());
    assert_eq!(diary.words(), ["+a#1", "+b#2", "-b#2 expired"]);
    assert_eq!(registry.expire(at(12)), 1);
    registry.check_invariants();
}

#[test]
fn a_token_is_wiped_as_soon_as_it_has_been_digested() {
    let mut new = session("a", 1);
    let key = TokenKey::new([7; 16]);
    let prefix = new.token.prefix();
    let token_ref = new.token.digest_and_zeroize(&key);
    assert!(token_ref.prefix == prefix);
    assert_eq!(*new.token.reveal(), "0".repeat(64));
}
