//! Connections go on: idle ones, those within a request, and those that send several at once.

use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::wait::eventually;
use serde_json::Value;

use super::client::{Connection, get};
use super::successor;

/// Waits until the running daemon has been asked so many times.
pub(crate) fn asked(daemon: &TestDaemon, times: usize) {
    eventually("the running daemon is asked", || {
        daemon.log().matches("asks to replace this daemon").count() == times
    });
}

#[test]
fn a_kept_connection_goes_on_with_the_successor() {
    let mut daemon = TestDaemon::start(&[]);
    let mut used = Connection::open(&daemon.socket()).unwrap();
    let mut new = Connection::open(&daemon.socket()).unwrap();
    let former = used.served_by();
    for replaced in 1..=3_u64 {
        daemon.hand_over_to(&successor());
        let now = used.served_by();
        assert_ne!(now, former);
        assert_eq!(now, new.served_by());
        let health: Value = daemon.get("/v1/health").unwrap();
        assert_eq!(health["replaced"], replaced);
        assert_eq!(health["pid"], now);
    }
    let lock = std::fs::read_to_string(daemon.socket().with_extension("sock.lock")).unwrap();
    assert_eq!(lock.trim(), daemon.pid().to_string());
    daemon.stop();
}

#[test]
fn each_of_the_two_may_have_no_monitor() {
    let mut daemon = Launch::with(&[]).one_process().start();
    let mut kept = Connection::open(&daemon.socket()).unwrap();
    kept.served_by();
    daemon.hand_over_to(&successor());
    assert_eq!(kept.served_by(), u64::from(daemon.pid()));
    assert_ne!(daemon.pid(), daemon.started());
    daemon.hand_over_to(&successor().one_process());
    assert_eq!(kept.served_by(), u64::from(daemon.pid()));
    assert_eq!(daemon.pid(), daemon.started());
    daemon.stop();
}

#[test]
fn requests_that_are_sent_meanwhile_wait_and_are_answered() {
    let mut daemon = TestDaemon::start(&[]);
    let mut begun = Connection::open(&daemon.socket()).unwrap();
    let mut idle = Connection::open(&daemon.socket()).unwrap();
    let former = idle.served_by();
    let request = get("/v1/health", None);
    let (first, last) = request.split_at(20);
    begun.send(first).unwrap();

    let next = daemon.spawn_beside(&successor());
    asked(&daemon, 1);
    // One is completed while it is waited for, with two more behind it. Others wait in the kernel.
    begun.send(last).unwrap();
    begun.send(&request).unwrap();
    begun.send(&request).unwrap();
    let mut new = Connection::open(&daemon.socket()).unwrap();
    new.send(&request).unwrap();
    idle.send(&request).unwrap();
    let answered = begun.response().unwrap();
    assert_eq!(answered.0, 200);
    for connection in [&mut begun, &mut idle, &mut new] {
        assert_eq!(connection.response().unwrap().0, 200);
    }
    assert_eq!(begun.response().unwrap().0, 200);
    daemon.adopt(next);
    for connection in [&mut begun, &mut idle, &mut new] {
        assert_ne!(connection.served_by(), former);
    }
    daemon.stop();
}

#[test]
fn a_client_that_never_completes_its_request_does_not_delay_others_for_long() {
    let mut daemon = TestDaemon::start(&[]);
    let mut slow = Connection::open(&daemon.socket()).unwrap();
    slow.served_by();
    slow.send("GET /v1/health HT").unwrap();
    let mut kept = Connection::open(&daemon.socket()).unwrap();
    kept.served_by();
    daemon.hand_over_to(&successor());
    kept.served_by();
    assert!(slow.response().is_err(), "it has ended with its daemon");
    daemon.stop();
}
