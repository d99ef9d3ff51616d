//! What clients of the claudemesh daemon are answered.

use reaper_tests::daemon::Launch;
use serde_json::json;

use crate::{error, over_socket, profile};

#[test]
fn routes_of_a_message_broker_answer_as_those_of_a_daemon_without_one() {
    let daemon = profile(&[]).start();
    for (text, lines) in [
        (
            "broker not initialised",
            &[
                "GET /v1/peers",
                "GET /v1/peers?mesh=m",
                "GET /v1/state",
                "GET /v1/state?key=k",
                "POST /v1/state",
                "PUT /v1/state",
                "DELETE /v1/state",
                "GET /v1/memory",
                "POST /v1/memory",
                "DELETE /v1/memory/7",
                "GET /v1/skills",
                "GET /v1/skills/name",
                "POST /v1/profile",
            ][..],
        ),
        (
            "inbox not initialised",
            &[
                "GET /v1/inbox",
                "DELETE /v1/inbox",
                "POST /v1/inbox/seen",
                "DELETE /v1/inbox/7",
            ],
        ),
        (
            "outbox not initialised",
            &["POST /v1/send", "GET /v1/outbox", "POST /v1/outbox/requeue"],
        ),
    ] {
        for line in lines {
            let answer = over_socket(&daemon, line, "");
            assert_eq!(error(&answer), (503, text), "{line}");
        }
    }
    for line in [
        "GET /v1/inbox/",
        "DELETE /v1/inbox/7/8",
        "PUT /v1/outbox",
        "GET /v1/memory/7",
    ] {
        let answer = over_socket(&daemon, line, "");
        assert_eq!(error(&answer), (404, "not found"), "{line}");
    }
}

#[test]
fn brokers_and_version_are_what_the_options_say() {
    let options = [
        "--brokers",
        "one,two",
        "--brokers",
        "three",
        "--advertise-version",
        "1.37.0",
    ];
    let daemon = profile(&options).start();
    let (_, health) = over_socket(&daemon, "GET /v1/health", "");
    let expected = json!({"one": "open", "two": "open", "three": "open"});
    assert_eq!(health["brokers"], expected);
    assert_eq!(
        (&health["ok"], &health["profile"]),
        (&json!(true), &json!("claudemesh"))
    );
    let (_, version) = over_socket(&daemon, "GET /v1/version", "");
    assert_eq!(version["daemon_version"], "1.37.0");
    assert_eq!(version["reaperd_version"], env!("CARGO_PKG_VERSION"));

    let plain = Launch::default().start();
    let (_, health) = over_socket(&plain, "GET /v1/health", "");
    assert_eq!(
        (&health["brokers"], &health["profile"]),
        (&json!({}), &json!(null))
    );
    let (_, version) = over_socket(&plain, "GET /v1/version", "");
    assert_eq!(version["daemon_version"], env!("CARGO_PKG_VERSION"));
}
