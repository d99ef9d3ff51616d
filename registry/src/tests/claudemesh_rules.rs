//! The rules that the unit tests of the claudemesh daemon fix for its registry, and where this registry
//! differs on purpose.

use std::time::Duration;

use super::support::*;
use crate::*;

const DAY: u64 = 24 * 60 * 60;

#[test]
fn a_new_token_under_a_known_id_removes_the_old_session_before_the_register_hook() {
    let (registry, hook_log) = logged(builder());
    put(&registry, "a", 1, at(1));
    put(&registry, "a", 2, at(2));
    assert_eq!(hook_log.lines(), ["+a#1", "-a#1 replaced", "+a#2"]);
    assert!(registry.resolve(&token(1), at(2)).is_none());
    assert!(registry.resolve(&token(2), at(2)).is_some());
    assert_eq!(registry.len(), 1);
}

#[test]
fn the_same_id_and_token_renew_the_session() {
    // The claudemesh daemon overwrites the entry and calls `onRegister` again. Here a renewal calls no
    // hook, so that register and deregister hooks are called in pairs.
    let (registry, hook_log) = logged(builder());
    put(&registry, "a", 1, at(1));
    put(&registry, "a", 1, at(5));
    assert_eq!(hook_log.lines(), ["+a#1"]);
    let renewed = registry.resolve(&token(1), at(5)).unwrap();
    assert_eq!(renewed.registered_at, at(5));
    assert_eq!(registry.len(), 1);
}

#[test]
fn the_same_token_under_another_id_removes_the_session_that_had_it() {
    // The claudemesh daemon lets the old id refer to the new entry and calls no `onDeregister`.
    let (registry, hook_log) = logged(builder());
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 1, at(2));
    assert_eq!(hook_log.lines(), ["+a#1", "-a#1 replaced", "+b#2"]);
    assert!(registry.session_named(1000, &id("a")).is_none());
}

#[test]
fn an_id_that_lost_its_token_can_register_again_without_removing_another_session() {
    // In the claudemesh daemon, registering "a" removed the unrelated session "b".
    let (registry, hook_log) = logged(builder());
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 1, at(2));
    put(&registry, "a", 2, at(3));
    assert_eq!(hook_log.lines(), ["+a#1", "-a#1 replaced", "+b#2", "+a#3"]);
    assert!(registry.resolve(&token(1), at(3)).is_some());
    assert_eq!(registry.len(), 2);
}

#[test]
fn the_end_of_a_replaced_process_does_not_remove_the_new_session() {
    let registry = registry();
    let old = put(&registry, "a", 1, at(1));
    // The claudemesh daemon also accepts the old token here. This registry keeps it for the live process.
    let same_token = of_process(2, session("a", 1));
    let refused = registry.register(same_token, at(2));
    assert_eq!(refused.unwrap_err(), RegisterError::TokenInUse);
    let successor = of_process(2, session("a", 2));
    registry.register(successor, at(2)).unwrap();
    assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(3)), 0);
    let late = registry.remove_entry(old.entry, Removal::Died(DEATH), at(3));
    assert!(late.is_none());
    assert!(registry.resolve(&token(2), at(3)).is_some());
}

#[test]
fn hooks_run_on_the_calling_thread_before_the_call_returns_and_see_the_change() {
    let test = std::thread::current().id();
    let registry = with_handle_in_hooks(|on_register| {
        let on_deregister = on_register.clone();
        builder()
            .on_register(move |session| {
                assert_eq!(std::thread::current().id(), test);
                let found = on_register.get().unwrap().resolve(&token(1), at(1));
                assert_eq!(found.unwrap().entry, session.entry);
            })
            .on_deregister(move |session, _| {
                assert_eq!(std::thread::current().id(), test);
                let registry = on_deregister.get().unwrap();
                assert!(registry.resolve(&token(1), at(1)).is_none());
                assert!(!has_secret(session));
            })
    });
    put(&registry, "a", 1, at(1));
    registry.deregister(&token(1), at(1));
    assert_eq!(registry.hook_panics(), 0, "no assertion in a hook failed");
    assert_eq!(registry.waiting_hooks(), 0);
}

#[test]
fn a_token_resolves_to_its_session_only() {
    let registry = registry();
    let stored = put(&registry, "a", 1, at(1));
    let found = registry.resolve(&token(1), at(1)).unwrap();
    assert_eq!((found.entry, found.id.as_str()), (stored.entry, "a"));
    assert!(registry.resolve(&token(2), at(1)).is_none());
}

#[test]
fn a_session_expires_after_exactly_a_day_of_boot_time_regardless_of_the_wall_clock() {
    let registered = 7_000_000_000;
    let limit = registered + DAY * 1_000_000_000;
    for wall_ms in [0, 1, 1_795_324_800_000, u64::MAX] {
        for by_sweep in [false, true] {
            let (registry, hook_log) = logged(builder());
            let (mut events, _) = registry.subscribe(None);
            put(&registry, "a", 1, at_nanos(registered));
            let gone = |nanos| {
                let now = Moment {
                    boot: BootTime::from_nanos(nanos),
                    wall_ms,
                };
                if by_sweep {
                    registry.expire(now) == 1
                } else {
                    registry.resolve(&token(1), now).is_none()
                }
            };
            assert!(!gone(registered - 1), "an earlier clock reading");
            assert!(!gone(limit), "exactly at the limit");
            assert_eq!(registry.len(), 1);
            assert!(gone(limit + 1), "a nanosecond past it");
            assert!(registry.is_empty());
            // The session is removed once only.
            assert!(registry.resolve(&token(1), at(2 * DAY)).is_none());
            assert_eq!(registry.expire(at(2 * DAY)), 0);
            assert_eq!(drain(&mut events).len(), 2);
            assert_eq!(hook_log.lines(), ["+a#1", "-a#1 expired"]);
        }
    }
}

#[test]
fn concurrent_look_ups_and_sweeps_remove_an_expired_session_once() {
    for _ in 0..200 {
        let (registry, hook_log) = logged(builder().ttl(Duration::from_secs(1)));
        put(&registry, "a", 1, at(1));
        let barrier = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            for by_sweep in [false, false, true] {
                let (registry, barrier) = (&registry, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    if by_sweep {
                        registry.expire(at(3));
                    } else {
                        assert!(registry.resolve(&token(1), at(3)).is_none());
                    }
                });
            }
        });
        assert_eq!(hook_log.lines(), ["+a#1", "-a#1 expired"]);
    }
}

#[test]
fn expired_sessions_are_listed_until_they_are_removed() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    assert!(at(2 * DAY).boot.since(at(1).boot) > Duration::from_hours(24));
    assert_eq!(registry.list().len(), 1);
    registry.expire(at(2 * DAY));
    assert!(registry.list().is_empty());
}

#[test]
fn an_unknown_token_cannot_be_deregistered() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    assert!(registry.deregister(&token(2), at(1)).is_none());
    assert!(registry.deregister(&token(1), at(1)).is_some());
    assert!(registry.deregister(&token(1), at(1)).is_none());
}

#[test]
fn a_start_time_can_be_absent_and_be_set_once() {
    let registry = registry();
    let stored = put(&registry, "a", 1, at(1));
    assert_eq!(stored.process.start_time(), None);
    let found = registry.resolve(&token(1), at(1)).unwrap();
    assert!(found.process.learn_start_time(StartTime(77)));
    assert!(!found.process.learn_start_time(StartTime(78)));
    assert_eq!(stored.process.start_time(), Some(StartTime(77)));
}

#[test]
fn malformed_pids_and_tokens_never_become_sessions() {
    // The claudemesh daemon stores any number as a pid, and its next sweep finds it dead.
    for raw in [i64::MIN, -1, 0, 4_194_305, 1 << 32, (1 << 32) + 1, i64::MAX] {
        assert_eq!(Pid::try_from(raw), Err(PidOutOfRange(raw)));
    }
    assert_eq!(Pid::try_from(1_i32).unwrap().get(), 1);
    assert_eq!(Pid::try_from(4_194_304_u32).unwrap().as_raw(), 4_194_304);
    let hex = "0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789";
    let parsed = Token::parse(hex).unwrap();
    assert_eq!(*parsed.reveal(), hex.to_lowercase());
    assert_eq!(parsed.prefix().to_string(), "01234567");
    let malformed = [&hex[1..], "", &hex.replace('0', "g"), &format!("{hex}0")];
    assert!(malformed.iter().all(|text| Token::parse(text).is_err()));
    assert!(
        Token::parse(&"é".repeat(32)).is_err(),
        "64 bytes that are not digits"
    );
    assert!(SecretKey::parse(&SECRET_HEX[2..]).is_none());
}

#[test]
fn elapsed_time_is_zero_for_a_later_start_and_does_not_overflow() {
    assert_eq!(at(1).boot.since(at(2).boot), Duration::ZERO);
    assert_eq!(
        at_nanos(u64::MAX).boot.since(at_nanos(0).boot),
        Duration::from_nanos(u64::MAX)
    );
}
