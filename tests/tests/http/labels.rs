//! Labels: where they are shown, and what they and the mesh select. And fields that are not known.

use serde_json::{Value, json};

use super::fixture::{Daemon, Events, TestProcess};

/// Registers three sessions of one process: `a` with two labels, `b` with one, `c` without any.
fn with_three() -> (Daemon, TestProcess) {
    let daemon = Daemon::start();
    let process = TestProcess::start();
    for (token, id, labels) in [
        (1, "a", json!({"job": "7", "stage": "test"})),
        (2, "b", json!({"job": "7"})),
        (3, "c", json!({})),
    ] {
        let body = json!({ "labels": labels });
        let (status, response) = daemon.register_with(token, id, process.pid(), body);
        assert_eq!(status, 200, "{response}");
    }
    (daemon, process)
}

fn ids(list: &Value) -> Vec<&str> {
    let sessions = list["sessions"].as_array().unwrap();
    let ids = sessions.iter().map(|it| it["sessionId"].as_str().unwrap());
    ids.collect()
}

#[test]
fn labels_are_shown_and_other_ones_replace_the_session() {
    let (daemon, process) = with_three();
    let shown = |token| daemon.me(token).1["session"]["labels"].clone();
    assert_eq!(shown(1), json!({"job": "7", "stage": "test"}));
    assert_eq!(shown(3), Value::Null);
    for (labels, renewed) in [
        (json!({"stage": "test", "job": "7"}), true),
        (json!({"job": "8"}), false),
        (json!({"job": "8"}), true),
    ] {
        let body = json!({"labels": labels, "role": "again"});
        let (_, response) = daemon.register_with(1, "a", process.pid(), body);
        assert_eq!(response["renewed"], renewed, "{labels}");
        assert_eq!(shown(1), labels);
    }
    let (status, problem) =
        daemon.register_with(4, "d", process.pid(), json!({"labels": {"a b": "1"}}));
    assert_eq!((status, &problem["field"]), (422, &json!("labels")));
    daemon.stop();
}

#[test]
fn a_list_has_the_sessions_that_have_all_labels() {
    let (daemon, _process) = with_three();
    for (query, expected) in [
        ("", vec!["a", "b", "c"]),
        ("label=job%3D7", vec!["a", "b"]),
        ("label=job=7&label=stage=test", vec!["a"]),
        ("label=job=7&label=stage=", vec![]),
        ("label=job=7&mesh=dev&session=b", vec!["b"]),
        ("label=job=7&mesh=other", vec![]),
    ] {
        let (status, list) = daemon.get(&format!("/v1/sessions?{query}"));
        assert_eq!((status, ids(&list)), (200, expected), "{query}");
    }
    // The page goes on behind sessions that are left out.
    let (_, first) = daemon.get("/v1/sessions?label=job=7&limit=1");
    assert_eq!(ids(&first), ["a"]);
    let next = first["next"].as_str().unwrap();
    let target = format!("/v1/sessions?label=job=7&limit=1&after={next}");
    let (_, second) = daemon.get(&target);
    assert_eq!((ids(&second), second.get("next")), (vec!["b"], None));
    for malformed in ["label=job", "label==7"] {
        for route in ["/v1/sessions", "/v1/events"] {
            let (status, problem) = daemon.get(&format!("{route}?{malformed}"));
            let expected = (400, &json!("invalid_query"), &json!("label"));
            let got = (status, &problem["code"], &problem["field"]);
            assert_eq!(got, expected, "{route}?{malformed}");
        }
    }
    daemon.stop();
}

#[test]
fn a_stream_has_the_events_of_the_sessions_that_it_selects() {
    let (daemon, process) = with_three();
    let mut by_label = Events::open(&daemon, "/v1/events?snapshot=1&label=stage=test", "");
    let mut by_mesh = Events::open(&daemon, "/v1/events?mesh=other", "");
    let snapshot = by_label.until("]}\n\n").to_owned();
    assert!(snapshot.contains("\"sessionId\":\"a\""), "{snapshot}");
    assert!(!snapshot.contains("\"sessionId\":\"b\""), "{snapshot}");
    let body = json!({"labels": {"stage": "test"}});
    daemon.register_with(4, "d", process.pid(), body);
    drop(process);
    let text = by_label.until("session_deregistered\ndata: {");
    assert!(text.contains("\"labels\":{\"stage\":\"test\"}"), "{text}");
    by_label.until("\"sessionId\":\"d\"");
    daemon.stop();
    let text = by_label.read_to_the_end();
    for left_out in ["\"sessionId\":\"b\"", "\"sessionId\":\"c\""] {
        assert!(!text.contains(left_out), "{text}");
    }
    let text = by_mesh.until("event: shutdown");
    assert!(!text.contains("session_"), "{text}");
}

#[test]
fn a_stream_gets_the_end_of_a_session_whose_labels_or_mesh_change() {
    let (daemon, process) = with_three();
    let mut by_label = Events::open(&daemon, "/v1/events?snapshot=1&label=job=7", "");
    let mut by_mesh = Events::open(&daemon, "/v1/events?snapshot=1&mesh=dev", "");
    for stream in [&mut by_label, &mut by_mesh] {
        stream.until("]}\n\n");
    }
    let again = json!({"labels": {"job": "8"}});
    daemon.register_with(1, "a", process.pid(), again);
    let again = json!({"labels": {"job": "7"}, "mesh": "other"});
    daemon.register_with(2, "b", process.pid(), again);
    daemon.stop();
    let kinds = |text: &str| -> Vec<_> {
        let names = text
            .lines()
            .filter_map(|it| it.strip_prefix("event: session_"));
        names.map(str::to_owned).collect()
    };
    let text = by_label.read_to_the_end();
    let expected = ["deregistered", "deregistered", "registered"];
    assert_eq!(kinds(&text), expected, "{text}");
    let text = by_mesh.read_to_the_end();
    let expected = ["deregistered", "registered", "deregistered"];
    assert_eq!(kinds(&text), expected, "{text}");
    assert_eq!(text.matches("\"cause\":\"replaced\"").count(), 2, "{text}");
}

#[test]
fn unknown_fields_are_accepted_and_named_in_the_response() {
    let daemon = Daemon::start();
    let process = TestProcess::start();
    let body = json!({"labels": {}, "lables": {"job": "7"}, "a\tb": 1});
    let (status, response) = daemon.register_with(1, "a", process.pid(), body);
    assert_eq!(status, 200, "{response}");
    // An object is sent in the order of its keys.
    assert_eq!(response["ignored"], json!(["a_b", "lables"]));
    let (_, response) = daemon.register(1, "a", process.pid());
    assert_eq!(response.get("ignored"), None);
    daemon.stop();
}
