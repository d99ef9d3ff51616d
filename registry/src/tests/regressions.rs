//! One test for each fault that was found in this crate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::support::*;
use crate::*;

#[test]
fn a_token_that_is_registered_again_resolves_at_any_time() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _writing = SetOnDrop(&done);
            // Once under its own id, once under another: both replace the session.
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
fn a_borrowed_secret_key_does_not_delay_a_removal() {
    let registry = registry();
    let mut new = session("a", 1);
    new.presence = Some(presence());
    let stored = registry.register(new, at(1));
    let stored = stored.unwrap().session;
    let kept = stored.clone();
    let (removed, others) = (registry.clone(), registry.clone());
    within_deadline("a removal while the key is borrowed", move || {
        stored.with_secret_key(|key| {
            assert!(removed.deregister(&token(1), at(2)).is_some());
            put(&others, "b", 2, at(2));
            assert!(key.is_some(), "the key is still borrowed");
        });
        assert!(!has_secret(&stored), "the key cannot be borrowed again");
    });
    assert!(!has_secret(&kept));
    assert_eq!(registry.len(), 1);
}

#[test]
fn on_event_runs_without_a_lock_and_its_panic_is_caught() {
    let (woken, wakes) = channel();
    let hook_log = HookLog::default();
    let registry = with_handle_in_hooks(|handle| {
        hook_log.attach(builder()).on_event(move || {
            // Deadlocks if the table is locked.
            woken.send(handle.get().map(Registry::len)).unwrap();
            panic!("a bad wake-up");
        })
    });
    within_deadline("a wake-up that looks at the registry", move || {
        put(&registry, "a", 1, at(1));
        put(&registry, "b", 2, at(1));
        assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(2)), 2);
        registry.publish_shutdown(at(3));
        assert_eq!(registry.hook_panics(), 4);
    });
    let lengths: Vec<_> = wakes.try_iter().flatten().collect();
    assert_eq!(
        lengths,
        [1, 2, 0, 0],
        "once for both sessions of the process"
    );
    assert_eq!(hook_log.lines().len(), 4, "the hooks run anyway");
}

#[test]
fn an_old_clock_reading_does_not_extend_a_session() {
    let registry = builder().ttl(Duration::from_secs(10)).build();
    put(&registry, "a", 1, at(5));
    // This caller read the clock before the other one but took the lock after it.
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
fn a_look_up_removes_only_the_expired_session_that_it_found() {
    let builder = builder().ttl(Duration::from_secs(10));
    let (registry, hook_log) = logged(builder);
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 2, at(1));
    assert!(registry.resolve(&token(2), at(12)).is_none());
    assert_eq!(hook_log.lines(), ["+a#1", "+b#2", "-b#2 expired"]);
    assert_eq!(registry.expire(at(12)), 1);
    registry.check_invariants();
}

#[test]
fn a_token_is_zeroed_once_it_has_been_digested() {
    let mut new = session("a", 1);
    let key = TokenKey::new([7; 16]);
    let prefix = new.token.prefix();
    let token_ref = new.token.digest_and_zeroize(&key);
    assert!(token_ref.prefix == prefix);
    assert_eq!(*new.token.reveal(), "0".repeat(64));
}
