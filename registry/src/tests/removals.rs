//! Exit statuses and the texts of removals.

use std::sync::{Arc, Mutex};

use super::support::*;
use crate::*;

#[test]
fn a_wait_status_decodes_and_encodes() {
    for (wait_status, status, text) in [
        (0, ExitStatus::Code(0), "exit status: 0"),
        (0x300, ExitStatus::Code(3), "exit status: 3"),
        (0xff00, ExitStatus::Code(255), "exit status: 255"),
        (9, signal(9, false), "signal: 9"),
        (0x86, signal(6, true), "signal: 6 (core dumped)"),
    ] {
        assert_eq!(ExitStatus::from_wait_status(wait_status), status);
        assert_eq!(status.to_wait_status(), wait_status);
        assert_eq!(status.to_string(), text);
    }
}

const fn signal(signal: u8, core: bool) -> ExitStatus {
    ExitStatus::Signal { signal, core }
}

#[cfg(unix)]
#[test]
fn an_exit_status_converts_to_that_of_std_and_back() {
    use std::os::unix::process::ExitStatusExt as _;
    let code = std::process::ExitStatus::from(ExitStatus::Code(3));
    assert_eq!(code.code(), Some(3));
    let killed = std::process::ExitStatus::from(signal(9, true));
    assert_eq!((killed.signal(), killed.core_dumped()), (Some(9), true));
    assert_eq!(ExitStatus::from(code), ExitStatus::Code(3));
    assert_eq!(ExitStatus::from(killed), signal(9, true));
}

#[test]
fn display_writes_the_names_of_json() {
    assert_eq!(Removal::Died(DEATH).to_string(), "exited");
    assert_eq!(Evidence::StartTime.to_string(), "start_time");
    assert_eq!(SourceHealth::Degraded.to_string(), "degraded");
    assert_eq!(format!("{:>8}", Source::Ebpf), "    ebpf");
}

#[test]
fn the_sessions_of_a_process_are_removed_in_parts_in_order_and_each_once() {
    const SESSIONS: usize = 600;
    let registry = registry();
    let ids: Vec<_> = (0..SESSIONS).map(|number| format!("s-{number}")).collect();
    for (number, id) in (0..).zip(&ids) {
        put(&registry, id, number, at(1));
    }
    let (mut position, _) = registry.subscribe(None);
    let part = registry.remove_some_of_process(ProcessId(1), DEATH, at(2), 100);
    assert_eq!((part, registry.len()), (100, SESSIONS - 100));
    let rest = registry.remove_process(ProcessId(1), DEATH, at(2));
    assert_eq!((rest, registry.len()), (SESSIONS - 100, 0));
    let again = registry.remove_some_of_process(ProcessId(1), DEATH, at(3), 100);
    assert_eq!(again, 0);
    let removed = std::iter::from_fn(|| match position.poll_next() {
        Next::Event(event) => match &event.kind {
            EventKind::Deregistered(session, _) => Some(session.id.to_string()),
            other => panic!("{other:?}"),
        },
        _ => None,
    });
    assert_eq!(removed.collect::<Vec<_>>(), ids);
    registry.check_invariants();
}

#[test]
fn the_lock_is_released_between_the_parts_of_a_removal() {
    // The waker runs without the lock: it sees how many sessions are left after each part.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by_waker = seen.clone();
    let registry = with_handle_in_hooks(|handle| {
        builder().on_event(move || {
            let left = handle.get().map_or(0, Registry::len);
            seen_by_waker.lock().unwrap().push(left);
        })
    });
    for number in 0..600 {
        put(&registry, &format!("s-{number}"), number, at(1));
    }
    seen.lock().unwrap().clear();
    assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(2)), 600);
    assert_eq!(*seen.lock().unwrap(), [344, 88, 0]);
}
