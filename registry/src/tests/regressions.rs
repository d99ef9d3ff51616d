//! Every fault that was once found here, by name.

use std::sync::atomic::{AtomicBool, Ordering};

use super::support::*;

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
