//! Every fault that was once found here, by name.

use std::sync::atomic::{AtomicBool, Ordering};

use super::support::*;
use crate::*;

#[test]
fn a_token_that_registers_again_is_known_throughout() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Once under its own name, once under another: both replace.
            for round in 0..20_000 {
                put(&registry, if round % 2 == 0 { "a" } else { "b" }, 1, at(1));
                put(&registry, "a", 1, at(1));
            }
            done.store(true, Ordering::Relaxed);
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
    let stored = registry.register(new, Authority::Owner, at(1)).unwrap();
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
