//! The table agrees with the daemon's defaults, and its errors help.

use std::time::Duration;

use super::*;

#[test]
fn the_defaults_of_the_table_are_those_of_the_daemon() {
    let defaults = DaemonOptions::on("/s");
    let mut options = DaemonOptions {
        // Every other field is set by an entry, or this differs from the defaults below.
        max_ttl: Some(Duration::from_secs(1)),
        ..defaults.clone()
    };
    for spec in OPTIONS {
        (spec.set)(&mut options, spec.default)
            .unwrap_or_else(|error| panic!("{}: {error}", spec.name));
    }
    assert_eq!(format!("{options:?}"), format!("{defaults:?}"));
}

#[test]
fn names_are_distinct_and_give_variables() {
    let names: std::collections::BTreeSet<_> = OPTIONS.iter().map(|spec| spec.name).collect();
    assert_eq!(names.len(), OPTIONS.len());
    let variable = named("sweep-interval").unwrap().variable();
    assert_eq!(variable, "REAPERD_SWEEP_INTERVAL");
}

#[test]
fn an_error_names_the_allowed_values() {
    for (name, wrong) in [
        ("ttl", "soon"),
        ("allow-uid", "1,no-such-user"),
        ("strict-replace", "yes"),
        ("sources", "auto,sweep"),
        ("max-connections", "7"),
        ("log", "reaperd=loud"),
        ("register-policy", "all"),
    ] {
        let spec = named(name).unwrap();
        let error = spec.check(wrong).unwrap_err();
        assert!(error.contains(spec.expects), "{error}");
    }
}
