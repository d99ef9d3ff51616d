//! The rules for the body of a registration, as tables.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const OWNER: u32 = 1000;

fn good() -> Value {
    json!({
        "token": "AB".repeat(32),
        "session_id": "s-1",
        "mesh": "dev",
        "display_name": "api",
        "pid": 4242,
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut body = good();
    body[field] = value;
    body
}

/// So many labels, each as long as it may be.
fn many_labels(count: usize) -> Value {
    let label = |number| (format!("{number:063}"), json!("x".repeat(256)));
    Value::Object((0..count).map(label).collect())
}

fn parse_bytes(body: &[u8]) -> Result<Parsed, Problem> {
    super::parse(body, OWNER, &SecretArena::new())
}

fn parse(body: &str) -> Result<Registration, Problem> {
    parse_bytes(body.as_bytes()).map(|parsed| parsed.registration)
}

fn refusal(body: &str) -> (u16, Value) {
    let problem = parse(body).expect_err("refused");
    let json = serde_json::from_slice(&problem.to_json()).unwrap();
    (problem.status().as_u16(), json)
}

#[test]
fn a_body_with_every_field_is_parsed() {
    let mut body = good();
    body["cwd"] = json!("/home/é");
    body["role"] = json!("lead");
    body["groups"] = json!(["@a", "@b:role"]);
    body["labels"] = json!({"job": "7", "app/x.y_z-1": "é", "empty": ""});
    body["unknown"] = json!({"token": 1});
    let parsed = parse(&body.to_string()).unwrap();
    assert_eq!(parsed.id.as_str(), "s-1");
    assert_eq!(parsed.pid.get(), 4242);
    assert_eq!(parsed.token.prefix().to_string(), "abababab");
    assert_eq!(&*parsed.details.mesh, "dev");
    assert_eq!(parsed.details.cwd.as_deref(), Some("/home/é"));
    assert_eq!(parsed.details.role.as_deref(), Some("lead"));
    assert_eq!(parsed.details.groups.len(), 2);
    let labels: Vec<_> = parsed.details.labels.iter().collect();
    assert_eq!(labels, [("app/x.y_z-1", "é"), ("empty", ""), ("job", "7")]);
    assert!(parsed.presence.is_none());
}

#[test]
fn a_body_that_is_not_an_object_gets_the_error_of_the_claudemesh_daemon() {
    for (body, status, error) in [
        ("{", 400, "Error: invalid_json"),
        ("{}x", 400, "Error: invalid_json"),
        ("nul", 400, "Error: invalid_json"),
        ("[1,]", 400, "Error: invalid_json"),
        ("", 400, "missing body"),
        (" \r\n", 400, "missing body"),
        ("null", 400, "missing body"),
        ("false", 400, "missing body"),
        ("0", 400, "missing body"),
        ("-0.0", 400, "missing body"),
        (" \"\" ", 400, "missing body"),
        ("[]", 422, "token must be 64 hex chars"),
        ("7", 422, "token must be 64 hex chars"),
        ("true", 422, "token must be 64 hex chars"),
        ("\"x\"", 422, "token must be 64 hex chars"),
        ("{}", 422, "token must be 64 hex chars"),
    ] {
        let (got, problem) = refusal(body);
        assert_eq!(
            (got, problem["error"].as_str()),
            (status, Some(error)),
            "{body:?}"
        );
    }
    let not_utf8 = parse_bytes(b"{\"token\":\"\xff\"}");
    assert_eq!(not_utf8.err().unwrap().code().name(), "invalid_json");
}

#[test]
fn an_array_of_valid_values_is_refused() {
    let values: Vec<_> = ["token", "session_id", "mesh", "display_name", "pid"]
        .map(|field| good()[field].clone())
        .into();
    assert_eq!(refusal(&json!(values).to_string()).1["field"], "token");
}

#[test]
fn each_invalid_field_is_named_in_the_error() {
    let long = |length: usize| json!("x".repeat(length));
    for (field, value, code) in [
        ("token", json!("AB".repeat(31)), "invalid_token"),
        ("token", json!("AB".repeat(33)), "invalid_token"),
        ("token", json!("G".repeat(64)), "invalid_token"),
        (
            "token",
            json!(format!("0x{}", "a".repeat(62))),
            "invalid_token",
        ),
        ("token", json!(7), "invalid_token"),
        ("token", json!(null), "invalid_token"),
        ("session_id", json!(null), "field_required"),
        ("session_id", json!(""), "field_required"),
        ("session_id", json!(7), "invalid_field"),
        ("session_id", long(129), "invalid_field"),
        ("session_id", json!("a\nb"), "invalid_field"),
        ("session_id", json!("a\u{0}b"), "invalid_field"),
        ("session_id", json!("a\u{85}b"), "invalid_field"),
        ("session_id", json!("a\u{202e}b"), "invalid_field"),
        ("mesh", json!("a\u{200f}b"), "invalid_field"),
        ("display_name", json!(" "), "invalid_field"),
        ("mesh", json!(""), "field_required"),
        ("mesh", json!(["dev"]), "invalid_field"),
        ("mesh", long(129), "invalid_field"),
        ("display_name", json!(""), "field_required"),
        ("display_name", json!({}), "invalid_field"),
        ("display_name", json!("tab\t"), "invalid_field"),
        ("cwd", long(4_097), "invalid_field"),
        ("cwd", json!(1), "invalid_field"),
        ("cwd", json!("/a\u{7f}"), "invalid_field"),
        ("role", long(129), "invalid_field"),
        ("role", json!(true), "invalid_field"),
        ("groups", json!("@a"), "invalid_field"),
        ("groups", json!([1]), "invalid_field"),
        ("groups", json!(["ok", null]), "invalid_field"),
        ("groups", json!(vec!["@a"; 65]), "invalid_field"),
        ("groups", json!(["x".repeat(65)]), "invalid_field"),
        ("groups", json!(["a\rb"]), "invalid_field"),
        ("labels", json!("a=b"), "invalid_field"),
        ("labels", json!([["a", "b"]]), "invalid_field"),
        ("labels", json!({"a": 1}), "invalid_field"),
        ("labels", json!({"a": null}), "invalid_field"),
        ("labels", json!({"": "v"}), "invalid_field"),
        ("labels", json!({"a b": "v"}), "invalid_field"),
        ("labels", json!({"a": "b\n"}), "invalid_field"),
        ("labels", json!({"a": " "}), "invalid_field"),
        ("labels", json!({"a": "x".repeat(257)}), "invalid_field"),
        ("labels", json!({"x".repeat(64): "v"}), "invalid_field"),
        ("labels", many_labels(33), "invalid_field"),
        ("ttl", json!(0), "invalid_field"),
        ("ttl", json!(-1), "invalid_field"),
        ("ttl", json!(1.5), "invalid_field"),
        ("ttl", json!(4_294_967_296_u64), "invalid_field"),
        ("ttl", json!("60"), "invalid_field"),
        ("ttl", json!("never"), "invalid_field"),
        ("ttl", json!("Process"), "invalid_field"),
        ("ttl", json!([1]), "invalid_field"),
        ("ttl", json!(true), "invalid_field"),
    ] {
        let (status, problem) = refusal(&with(field, value.clone()).to_string());
        assert_eq!(status, 422, "{field}: {value}");
        assert_eq!(problem["field"], field, "{field}: {value}");
        assert_eq!(problem["code"], code, "{field}: {value}");
    }
}

#[test]
fn values_at_the_limits_are_accepted() {
    for (field, value) in [
        ("session_id", json!("x".repeat(128))),
        ("display_name", json!("שלום")),
        ("cwd", json!("x".repeat(4_096))),
        ("cwd", json!(null)),
        ("role", json!(null)),
        ("groups", json!(null)),
        ("groups", json!(vec!["x".repeat(64); 64])),
        ("pid", json!(1)),
        ("pid", json!(4_194_304)),
    ] {
        let body = with(field, value.clone()).to_string();
        assert!(parse(&body).is_ok(), "{field}: {value}");
    }
}

#[test]
fn a_pid_is_a_plain_integer_in_range() {
    for pid in [
        "0",
        "-1",
        "-0",
        "4194305",
        "1.0",
        "4242.5",
        "4e3",
        "\"4242\"",
        "2147483648",
        "4294967297",
        "4294971538",
        "1e309",
        "18446744073709555858",
        "true",
        "[4242]",
        "{}",
    ] {
        let body = good().to_string().replace("4242", pid);
        let (status, problem) = refusal(&body);
        assert_eq!(
            (status, problem["field"].as_str()),
            (422, Some("pid")),
            "{pid}"
        );
    }
    let (_, problem) = refusal(&with("pid", json!(null)).to_string());
    assert_eq!(problem["error"], REQUIRED);
}

#[test]
fn a_ttl_is_seconds_or_the_process_or_absent() {
    let second = Duration::from_secs(1);
    for (value, ttl) in [
        (json!(null), Ttl::Default),
        (json!(1), Ttl::For(second)),
        (json!(86_400), Ttl::For(86_400 * second)),
        (json!(u32::MAX), Ttl::For(u32::MAX * second)),
        (json!("process"), Ttl::Process),
    ] {
        let parsed = parse(&with("ttl", value).to_string());
        assert_eq!(parsed.unwrap().ttl, ttl);
    }
    let parsed = parse(&good().to_string());
    assert_eq!(parsed.unwrap().ttl, Ttl::Default);
}

#[test]
fn the_first_invalid_field_is_reported_in_the_order_of_the_claudemesh_daemon() {
    let mut body = json!({"token": "short", "pid": 0});
    assert_eq!(
        refusal(&body.to_string()).1["error"],
        "token must be 64 hex chars"
    );
    body["token"] = good()["token"].clone();
    let problem = refusal(&body.to_string()).1;
    assert_eq!(
        (&problem["error"], &problem["field"]),
        (&json!(REQUIRED), &json!("session_id"))
    );
}

#[test]
fn a_duplicate_field_is_refused() {
    for (field, value) in [
        ("token", "\"x\""),
        ("pid", "4242"),
        ("presence", "null"),
        ("cwd", "1"),
        ("ttl", "1"),
    ] {
        let twice = format!("{},\"{field}\":{value},\"{field}\":{value}}}", r#"{"a":1"#);
        let (status, problem) = refusal(&twice);
        assert_eq!((status, problem["field"].as_str()), (422, Some(field)));
        assert_eq!(problem["code"], "duplicate_field");
    }
}

#[test]
fn a_token_file_is_an_absolute_path_of_valid_text() {
    let file = |value: Value| parse(&with("token_file", value).to_string());
    let longest = format!("/{}", "x".repeat(4_095));
    for path in ["/run/user/7/a b", "/", &longest] {
        let parsed = file(json!(path)).unwrap();
        assert_eq!(parsed.details.token_file.as_deref(), Some(path));
    }
    assert!(file(json!(null)).is_ok_and(|parsed| parsed.details.token_file.is_none()));
    for wrong in [
        json!("relative"),
        json!(""),
        json!("/line\nfeed"),
        json!(format!("{longest}x")),
        json!(["/a"]),
    ] {
        let (status, problem) = refusal(&with("token_file", wrong).to_string());
        assert_eq!((status, &problem["field"]), (422, &json!("token_file")));
    }
}

#[test]
fn if_answered_is_a_boolean() {
    let if_answered = |body: Value| {
        let parsed = parse_bytes(body.to_string().as_bytes());
        parsed.unwrap().if_answered
    };
    for (value, expected) in [
        (true.into(), true),
        (false.into(), false),
        (json!(null), false),
    ] {
        assert_eq!(if_answered(with("if_answered", value)), expected);
    }
    assert!(!if_answered(good()));
    for wrong in [json!(1), json!("true"), json!([])] {
        let (status, problem) = refusal(&with("if_answered", wrong).to_string());
        assert_eq!((status, &problem["field"]), (422, &json!("if_answered")));
    }
}

fn presence() -> Value {
    json!({
        "session_pubkey": "CD".repeat(32),
        "session_secret_key": "EF".repeat(64),
        "parent_attestation": {
            "session_pubkey": "a1-_",
            "parent_member_pubkey": "aGVsbG8gd28=",
            "expires_at": 1_795_324_800_000_u64,
            "signature": "0".repeat(1_024),
        },
    })
}

#[test]
fn presence_is_dropped_if_a_part_of_it_is_invalid() {
    let accepted = |presence: Value| {
        let parsed = parse(&with("presence", presence).to_string());
        parsed.expect("bad presence is not refused").presence
    };
    let whole = accepted(presence()).unwrap();
    assert_eq!(&*whole.session_pubkey, "cd".repeat(32));
    assert_eq!(whole.secret_key.expose(), &[0xef; 64]);
    assert_eq!(&*whole.attestation.parent_member_pubkey, "aGVsbG8gd28=");

    let mut broken = vec![json!(null), json!([]), json!("x"), json!({})];
    for (pointer, value) in [
        ("/session_pubkey", json!("CD".repeat(31))),
        ("/session_pubkey", json!("ZZ".repeat(32))),
        ("/session_secret_key", json!("EF".repeat(63))),
        ("/session_secret_key", json!(7)),
        ("/parent_attestation", json!(null)),
        ("/parent_attestation", json!(["a", "b", "c", 1])),
        ("/parent_attestation/expires_at", json!("1")),
        ("/parent_attestation/signature", json!(1)),
        ("/parent_attestation/signature", json!("x".repeat(1_025))),
        ("/parent_attestation/signature", json!("")),
        ("/parent_attestation/signature", json!("==")),
        ("/parent_attestation/signature", json!("ab===")),
        ("/parent_attestation/signature", json!("a=b")),
        ("/parent_attestation/session_pubkey", json!("a\"b")),
        ("/parent_attestation/session_pubkey", json!("a\u{1b}b")),
        ("/parent_attestation/parent_member_pubkey", json!("\u{e9}")),
        ("/parent_attestation/parent_member_pubkey", json!("a b")),
    ] {
        let mut one = presence();
        *one.pointer_mut(pointer).unwrap() = value;
        broken.push(one);
    }
    for one in broken {
        assert!(accepted(one.clone()).is_none(), "{one}");
    }
}

#[test]
fn an_error_never_contains_a_secret() {
    let secret = "EF".repeat(64);
    for body in [
        with("token", json!(secret)).to_string(),
        with("pid", json!(secret)).to_string(),
        with("groups", json!([[secret]])).to_string(),
        format!("{{\"presence\":{{\"session_secret_key\":\"{secret}\"}},\"presence\":{secret}}}"),
        format!("{{\"token\":\"{secret}\",\"token\":\"{secret}\"}}"),
        format!("{{\"token\":\"{secret}\" {secret}"),
    ] {
        let problem = refusal(&body).1.to_string();
        assert!(!problem.contains(&secret[..16]), "{problem}");
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_without_a_panic(body: String) {
        let _result = parse(&body).is_ok();
    }

    #[test]
    fn a_float_is_never_a_pid(number: f64) {
        let body = with("pid", json!(number)).to_string();
        // serde_json writes every float with a point or an exponent.
        prop_assert!(parse(&body).is_err());
    }

    #[test]
    fn an_integer_is_accepted_exactly_if_in_range(number: i64) {
        let passes = parse(&with("pid", json!(number)).to_string()).is_ok();
        prop_assert_eq!(passes, (1..=4_194_304).contains(&number));
    }
}

#[test]
fn labels_have_each_key_once_and_null_is_none() {
    let parsed = parse(&with("labels", many_labels(32)).to_string()).unwrap();
    assert_eq!(parsed.details.labels.len(), 32);
    for none in [json!(null), json!({})] {
        let parsed = parse(&with("labels", none).to_string()).unwrap();
        assert!(parsed.details.labels.is_empty());
    }
    let twice = with("labels", json!({"a": "1", "b": "2"}));
    let twice = twice.to_string().replace("\"b\"", "\"\\u0061\"");
    let (status, problem) = refusal(&twice);
    assert_eq!((status, &problem["field"]), (422, &json!("labels")));
    assert_eq!(problem["detail"], "labels must not have a key twice");
}
