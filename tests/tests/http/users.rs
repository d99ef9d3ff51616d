//! Several users of one daemon: none sees, replaces, removes or learns what belongs to another.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use reaper_tests::expect::skip;
use reaperd::testkit::daemon::{DaemonOptions, RegisterPolicy};
use serde_json::{Value, json};

use super::fixture::{Daemon, Events, TestProcess, as_user, eventually, session_header};

const ALICE: u32 = 2_001;
const BOB: u32 = 2_002;

/// A daemon that serves root, Alice and Bob; `None`, and a line, without root.
fn shared_daemon(change: impl FnOnce(&mut DaemonOptions)) -> Option<Daemon> {
    if !rustix::process::geteuid().is_root() {
        skip("only root can become several users");
        return None;
    }
    let daemon = Daemon::with(|options| {
        options.allow_uids = vec![ALICE, BOB];
        options.register_policy = RegisterPolicy::Any;
        let folder = options.socket.parent().unwrap();
        std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        change(options);
    });
    Some(daemon)
}

fn code(response: &(u16, Value)) -> (u16, &str) {
    (response.0, response.1["code"].as_str().unwrap_or_default())
}

#[test]
fn two_users_have_the_same_session_id_and_root_names_the_one_it_means() {
    let Some(daemon) = shared_daemon(|_| {}) else {
        return;
    };
    let test_process = TestProcess::start();
    let pid = test_process.pid();
    for (uid, token) in [(ALICE, 0xa), (BOB, 0xb)] {
        let (status, response) = as_user(uid, || daemon.register(token, "s", pid));
        assert_eq!((status, &response["renewed"]), (200, &json!(false)));
        assert_eq!(as_user(uid, || daemon.listed()), ["s"]);
    }
    assert_eq!(daemon.listed(), ["s", "s"]);
    let of_bob = daemon.get(&format!("/v1/sessions?uid={BOB}")).1;
    assert_eq!(of_bob["sessions"][0]["uid"], BOB);
    assert_eq!(of_bob["sessions"].as_array().unwrap().len(), 1);

    let delete =
        |query: &str| daemon.request("DELETE", &format!("/v1/sessions/by-id/s{query}"), "", "");
    let refused = as_user(ALICE, || delete(&format!("?uid={BOB}")));
    assert_eq!(code(&refused), (403, "other_user"));
    let refused = as_user(ALICE, || daemon.get(&format!("/v1/sessions?uid={BOB}")));
    assert_eq!(code(&refused), (403, "other_user"));
    let refused = delete("");
    assert_eq!(code(&refused), (409, "ambiguous_session"));
    assert!(refused.1["detail"].as_str().unwrap().contains("?uid="));
    // Root's own session comes first, then the only one that is left.
    daemon.register(1, "s", pid);
    assert_eq!(delete("").0, 200);
    assert_eq!(code(&daemon.me(1)), (401, "session_gone"));
    assert_eq!(delete(&format!("?uid={BOB}")).0, 200);
    assert_eq!(as_user(BOB, || daemon.listed()), [] as [&str; 0]);
    assert_eq!(delete("").0, 200);
    assert_eq!(code(&delete("")), (404, "unknown_session"));
    daemon.stop();
}

#[test]
fn a_token_of_another_user_gets_the_answer_of_an_unknown_token() {
    let Some(daemon) = shared_daemon(|_| {}) else {
        return;
    };
    let test_process = TestProcess::start();
    as_user(ALICE, || daemon.register(0xa, "s", test_process.pid()));
    let answers = |token: u64| {
        let header = session_header(token);
        let ask = |method: &str, target: &str| daemon.request(method, target, &header, "");
        as_user(BOB, || {
            [
                ask("GET", "/v1/sessions/me"),
                ask("DELETE", "/v1/sessions/me"),
                ask("GET", "/v1/events"),
                ask("GET", "/v1/peers"),
                daemon.request("DELETE", &format!("/v1/sessions/{token:064x}"), "", ""),
            ]
        })
    };
    let unknown = answers(0xf);
    assert_eq!(code(&unknown[0]), (401, "unknown_session"));
    assert_eq!(answers(0xa), unknown);
    assert_eq!(as_user(ALICE, || daemon.me(0xa)).0, 200, "it is still live");
    assert_eq!(daemon.me(0xa).0, 200, "root may use it");
    let refused = as_user(BOB, || daemon.register(0xa, "mine", test_process.pid()));
    assert_eq!(code(&refused), (409, "token_in_use"));
    drop(test_process);
    eventually("it ends", || as_user(ALICE, || daemon.me(0xa)).0 == 401);
    let gone = as_user(ALICE, || daemon.me(0xa));
    assert_eq!(code(&gone), (401, "session_gone"));
    assert_eq!(answers(0xa), unknown, "nor does its end show");
    daemon.stop();
}

#[test]
fn a_stream_has_the_events_of_its_user_whatever_others_do() {
    let Some(daemon) = shared_daemon(|_| {}) else {
        return;
    };
    let test_process = TestProcess::start();
    let pid = test_process.pid();
    as_user(ALICE, || daemon.register(0xa, "first", pid));
    let mut quiet = as_user(ALICE, || Events::open(&daemon, "/v1/events?snapshot=1", ""));
    let snapshot = quiet.until("]}\n\n").to_owned();
    assert!(snapshot.contains("\"sessionId\":\"first\""));
    let id = snapshot.lines().find_map(|line| line.strip_prefix("id: "));
    let id = format!("Last-Event-ID: {}\r\n", id.unwrap());
    as_user(ALICE, || daemon.register(0xc, "between", pid));
    // More than the whole history.
    as_user(BOB, || {
        for round in 0..2_200 {
            daemon.register(0x1000 + round, "churn", pid);
        }
    });
    as_user(ALICE, || daemon.register(0xb, "second", pid));
    let mut resumed = as_user(ALICE, || Events::open(&daemon, "/v1/events", &id));
    for events in [&mut quiet, &mut resumed] {
        let text = events.until("\"sessionId\":\"second\"");
        assert!(text.contains("\"sessionId\":\"between\""), "{text}");
        assert!(!text.contains("event: gap"), "{text}");
        assert!(!text.contains("churn"), "{text}");
    }
    daemon.stop();
}

#[test]
fn strict_replacement_includes_the_removal_by_id() {
    let Some(daemon) = shared_daemon(|options| options.strict_replace = true) else {
        return;
    };
    let test_process = TestProcess::start();
    let pid = test_process.pid();
    let delete = |fields: &str| daemon.request("DELETE", "/v1/sessions/by-id/s", fields, "");
    as_user(ALICE, || {
        daemon.register(0xa, "s", pid);
        daemon.register(0xb, "other", pid);
        assert_eq!(code(&delete("")), (403, "needs_token"));
        assert_eq!(code(&delete(&session_header(0xb))), (403, "needs_token"));
        assert_eq!(delete(&session_header(0xa)).0, 200);
        daemon.register(0xa, "s", pid);
    });
    assert_eq!(delete("").0, 200, "root needs no token");
    daemon.stop();
}

#[test]
fn users_that_register_all_they_can_leave_sessions_to_others_and_to_root() {
    // The daemon is root's, so one sixteenth is reserved.
    let Some(daemon) = shared_daemon(|options| {
        (options.max_sessions, options.max_sessions_per_uid) = (64, 30);
    }) else {
        return;
    };
    let test_process = TestProcess::start();
    let mut token = 0;
    let mut fill = || {
        let accepted = std::iter::from_fn(|| {
            token += 1;
            let registered = daemon.register(token, &token.to_string(), test_process.pid());
            if registered.0 == 200 {
                return Some(());
            }
            assert_eq!(code(&registered), (429, "too_many_sessions_of_user"));
            None
        });
        accepted.count()
    };
    let alice = as_user(ALICE, &mut fill);
    let limit = |of: &str| {
        let limits = daemon.get("/v1/limits").1;
        let session = limits["limits"][of].clone();
        (session["used"].as_u64(), session["limit"].as_u64())
    };
    let bob = as_user(BOB, &mut fill);
    let shown = as_user(BOB, || limit("sessions"));
    let root = fill();
    println!("{alice} {bob} {root}, shown to Bob: {shown:?}");
    assert_eq!((alice, bob), (30, 12));
    assert_eq!(shown, (Some(12), Some(12)));
    assert!(root >= 4, "{root}");
    daemon.stop();
}

#[test]
fn a_user_has_a_share_of_memory() {
    let Some(daemon) = shared_daemon(|options| options.max_bytes_per_uid = 20_000) else {
        return;
    };
    let test_process = TestProcess::start();
    let cwd = || json!({"cwd": format!("/{}", "x".repeat(4_000))});
    let register =
        |token: u64| daemon.register_with(token, &token.to_string(), test_process.pid(), cwd());
    let statuses: Vec<_> = as_user(ALICE, || (1..=5).map(|token| register(token).0).collect());
    assert_eq!(statuses, [200, 200, 200, 200, 429]);
    let refused = as_user(ALICE, || register(5));
    assert_eq!(code(&refused), (429, "too_many_bytes_of_user"));
    assert_eq!(as_user(BOB, || register(6)).0, 200);
    daemon.stop();
}
