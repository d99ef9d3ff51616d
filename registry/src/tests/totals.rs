//! The counters show what was really done.

use std::time::Duration;

use super::support::*;
use crate::*;

fn removed(totals: &Totals, cause: &str, source: Option<Source>) -> u64 {
    let mut found = totals.removed.iter();
    let found = found.find(|it| it.cause == cause && it.source == source);
    found.expect("every cause is listed").count
}

#[test]
fn totals_count_each_registration_renewal_and_removal_once() {
    let registry = builder().ttl(Duration::from_secs(10)).build();
    put(&registry, "a", 1, at(1));
    put(&registry, "a", 1, at(1)); // Renewed.
    put(&registry, "a", 2, at(1)); // Replaced.
    put(&registry, "b", 3, at(1));
    let other = of_process(2, session("c", 4));
    registry.register(other, at(1)).unwrap();
    registry.deregister(&token(3), at(2)).unwrap();
    assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(2)), 1);
    assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(2)), 0);
    assert!(registry.resolve(&token(4), at(20)).is_none());
    refused(
        &registry,
        of_process(
            3,
            NewSession {
                ttl: Ttl::Process,
                ..put_again(&registry)
            },
        ),
    );

    let totals = registry.totals();
    assert_eq!((totals.registered, totals.renewed), (5, 1));
    for (cause, source, expected) in [
        ("replaced", None, 1),
        ("requested", None, 1),
        ("expired", None, 1),
        ("exited", Some(Source::Pidfd), 1),
        ("exited", Some(Source::Sweep), 0),
        ("pid_reused", Some(Source::Pidfd), 0),
    ] {
        assert_eq!(removed(&totals, cause, source), expected, "{cause}");
    }
    let removals: u64 = totals.removed.iter().map(|it| it.count).sum();
    assert_eq!(removals + registry.len() as u64, totals.registered);
    assert_eq!(totals.removed.len(), 13);
}

/// Stores a session, and returns a registration that another process may not make.
fn put_again(registry: &Registry) -> NewSession {
    put(registry, "d", 9, at(2));
    session("d", 9)
}
