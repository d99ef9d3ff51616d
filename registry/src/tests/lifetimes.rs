//! Lifetimes: requested, granted, and the order of expiry.

use std::time::Duration;

use super::support::*;
use crate::*;

const SECOND: Duration = Duration::from_secs(1);

fn put_for(registry: &Registry, name: &str, token_number: u64, ttl: Ttl) -> Option<Moment> {
    let new = NewSession {
        ttl,
        ..session(name, token_number)
    };
    let stored = registry.register(new, at_nanos(7));
    stored.unwrap().session.expires_at
}

fn after(duration: Duration) -> Moment {
    let Moment { boot, wall_ms } = at_nanos(7);
    let nanos = u64::try_from(duration.as_nanos()).unwrap();
    Moment {
        boot: BootTime::from_nanos(boot.as_nanos() + nanos),
        // The wall clock of these tests is a few nanoseconds before the end of its range.
        wall_ms: wall_ms.saturating_add(u64::try_from(duration.as_millis()).unwrap()),
    }
}

#[test]
fn a_requested_lifetime_is_granted_up_to_the_maximum() {
    use Ttl::{Default, For, Process};
    for (default, max, asked, granted) in [
        (Some(9), None, Default, Some(9)),
        (Some(9), None, For(4 * SECOND), Some(4)),
        (Some(9), None, For(40 * SECOND), Some(40)),
        (Some(9), None, Process, None),
        (None, None, Default, None),
        (None, None, For(4 * SECOND), Some(4)),
        (Some(9), Some(5), Default, Some(5)),
        (Some(9), Some(5), For(4 * SECOND), Some(4)),
        (Some(9), Some(5), For(6 * SECOND), Some(5)),
        (Some(9), Some(5), Process, Some(5)),
        (None, Some(5), Default, Some(5)),
        (Some(3), Some(5), Process, Some(5)),
    ] {
        let seconds = |ttl: Option<u64>| ttl.map(Duration::from_secs);
        let registry = builder()
            .ttl(seconds(default))
            .max_ttl(seconds(max))
            .build();
        let expected = seconds(granted).map(after);
        let got = put_for(&registry, "a", 1, asked);
        assert_eq!(got, expected, "{default:?} {max:?} {asked:?}");
    }
}

#[test]
fn the_default_lifetime_is_a_day() {
    let day = after(Duration::from_hours(24));
    assert_eq!(put_for(&registry(), "a", 1, Ttl::Default), Some(day));
}

#[test]
fn sessions_expire_in_the_order_of_their_last_moments() {
    let (registry, hook_log) = logged(builder());
    for (name, token, seconds) in [("a", 1, 30), ("b", 2, 10), ("c", 3, 20), ("d", 4, 10)] {
        put_for(&registry, name, token, Ttl::For(seconds * SECOND));
    }
    put_for(&registry, "e", 5, Ttl::Process);
    assert_eq!(registry.expire(at_nanos(7 + 10_000_000_000)), 0);
    assert_eq!(registry.expire(at(25)), 3);
    assert_eq!(
        hook_log.lines()[5..],
        ["-b#2 expired", "-d#4 expired", "-c#3 expired"]
    );
    registry.check_invariants();
    assert_eq!(registry.expire(at(100)), 1);
    assert_eq!(
        registry.expire(at_nanos(u64::MAX)),
        0,
        "as long as its process"
    );
    assert!(registry.resolve(&token(5), at_nanos(u64::MAX)).is_some());
    assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(101)), 1);
}

#[test]
fn the_longest_lifetime_saturates_at_the_end_of_the_clock() {
    let registry = registry();
    put_for(&registry, "a", 1, Ttl::For(Duration::MAX));
    assert_eq!(registry.expire(at_nanos(u64::MAX)), 0);
}
