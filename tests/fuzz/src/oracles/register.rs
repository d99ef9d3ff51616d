//! Bodies of registrations. The fields of an accepted one keep their limits and are those that a general
//! JSON parser finds; the response to a refused one contains none of its secrets.

use std::collections::BTreeSet;

use reaper_registry::{Details, Pid, Presence, Ttl};
use reaperd::fuzzing::{RegistrationBody, registration as parse};
use serde_json::{Value, json};

/// A run of so many hex digits is part of a secret; no message of ours has one.
const SECRET_DIGITS: usize = 16;

/// Any bytes as a body.
pub fn register_body(bytes: &[u8]) {
    match parse(bytes) {
        Ok(asked) => {
            check_limits(&asked);
            // `Err` if an ignored field holds what only the stricter general parser refuses.
            if let Ok(Value::Object(second)) = serde_json::from_slice(bytes) {
                check_against(&asked, &Value::Object(second));
            }
            let again = parse(written(&asked).to_string().as_bytes());
            let Ok(again) = again else {
                panic!("what was accepted once is accepted again")
            };
            check_against(&again, &written(&asked));
            assert_eq!(again.details, asked.details);
        }
        Err(problem) => {
            let text = problem.json;
            let read: Value = serde_json::from_slice(&text).expect("a problem is JSON");
            assert_eq!(read["code"], problem.code);
            assert!(matches!(problem.status, 400 | 422));
            let is_hex = |run: &&[u8]| run.iter().all(u8::is_ascii_hexdigit);
            for run in text.windows(SECRET_DIGITS).filter(is_hex) {
                let is_given = bytes.windows(SECRET_DIGITS).any(|part| part == run);
                assert!(!is_given, "the response repeats a secret: {read}");
            }
        }
    }
}

fn check_limits(asked: &RegistrationBody) {
    let RegistrationBody {
        id,
        token,
        pid,
        further,
        details,
        presence,
        if_answered: _,
        ignored,
        ttl,
    } = asked;
    let Details {
        mesh,
        display_name,
        cwd,
        role,
        groups,
        labels,
        token_file,
    } = details;
    assert!((1..=Pid::MAX).contains(&pid.get()));
    let all: BTreeSet<_> = further.iter().chain([pid]).collect();
    assert_eq!(all.len(), 1 + further.len(), "each occurs once");
    assert!(all.len() <= 64);
    if let Ttl::For(ttl) = ttl {
        assert!((1..=u64::from(u32::MAX)).contains(&ttl.as_secs()));
    }
    assert_eq!(token.reveal().len(), 64);
    for name in [id.as_str(), mesh, display_name] {
        assert!(!name.is_empty());
        check_text(name, 128);
    }
    check_text(cwd.as_deref().unwrap_or_default(), 4_096);
    check_text(role.as_deref().unwrap_or_default(), 128);
    check_text(token_file.as_deref().unwrap_or("/"), 4_096);
    assert!(token_file.as_deref().unwrap_or("/").starts_with('/'));
    assert!(groups.len() <= 64);
    groups.iter().for_each(|group| check_text(group, 64));
    assert!(ignored.len() <= 16);
    for name in ignored {
        check_text(name, 64);
    }
    assert!(labels.len() <= 32);
    for (key, value) in labels.iter() {
        let is_of_key = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        assert!((1..=63).contains(&key.len()) && key.bytes().all(is_of_key));
        check_text(value, 256);
    }
    if let Some(Presence {
        session_pubkey,
        attestation,
        ..
    }) = presence
    {
        assert_eq!(session_pubkey.len(), 64);
        assert!(
            session_pubkey
                .bytes()
                .all(|byte| b"0123456789abcdef".contains(&byte))
        );
        assert!(attestation.signature.len() <= 1_024);
        assert!(attestation.expires_at.is_finite());
    }
}

/// Text that is shown in a terminal must not control it.
fn check_text(text: &str, max: usize) {
    assert!(text.len() <= max);
    let controls = |c: char| matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!text.contains(controls), "{text:?}");
}

/// A general parser finds the same fields.
fn check_against(asked: &RegistrationBody, second: &Value) {
    let text = |field: &str| second[field].as_str();
    assert_eq!(
        text("token").map(str::to_ascii_lowercase).as_deref(),
        Some(asked.token.reveal().as_str())
    );
    assert_eq!(text("session_id"), Some(asked.id.as_str()));
    assert_eq!(text("mesh"), Some(&*asked.details.mesh));
    assert_eq!(text("display_name"), Some(&*asked.details.display_name));
    let listed = second["pids"].as_array().map_or(&[][..], Vec::as_slice);
    let first = Some(&second["pid"]).filter(|pid| !pid.is_null());
    let mut named: Vec<&Value> = Vec::new();
    for pid in first.into_iter().chain(listed) {
        if !named.contains(&pid) {
            named.push(pid);
        }
    }
    let parsed = std::iter::once(&asked.pid).chain(&asked.further);
    let parsed: Vec<_> = parsed.map(|pid| json!(pid.get())).collect();
    assert!(named.into_iter().eq(&parsed));
    assert_eq!(
        second.get("ttl").unwrap_or(&Value::Null),
        &ttl_in_json(asked.ttl)
    );
    assert_eq!(text("cwd"), asked.details.cwd.as_deref());
    assert_eq!(text("role"), asked.details.role.as_deref());
    assert_eq!(text("token_file"), asked.details.token_file.as_deref());
    assert_eq!(
        second["if_answered"].as_bool().unwrap_or_default(),
        asked.if_answered
    );
    let groups = second["groups"].as_array().map_or(&[][..], Vec::as_slice);
    assert!(
        groups
            .iter()
            .eq(asked.details.groups.iter().map(|group| &**group))
    );
    let labels = second["labels"].as_object();
    assert_eq!(
        labels.map_or(0, serde_json::Map::len),
        asked.details.labels.len()
    );
    for (key, value) in asked.details.labels.iter() {
        assert_eq!(second["labels"][key], value);
    }
    if let Some(presence) = &asked.presence {
        let second = &second["presence"];
        let key = second["session_pubkey"].as_str().expect("it was read");
        assert_eq!(key.to_ascii_lowercase(), *presence.session_pubkey);
        let attestation = &second["parent_attestation"];
        assert_eq!(attestation["signature"], *presence.attestation.signature);
    }
}

/// A body for this registration. The secret key is left out, and with it presence.
fn written(asked: &RegistrationBody) -> Value {
    let details = &asked.details;
    let further: Vec<_> = asked.further.iter().map(|pid| pid.get()).collect();
    json!({
        "token": *asked.token.reveal(),
        "session_id": asked.id.as_str(),
        "mesh": details.mesh,
        "display_name": details.display_name,
        "pid": asked.pid.get(),
        "pids": if asked.further.is_empty() { Value::Null } else { json!(further) },
        "cwd": details.cwd,
        "role": details.role,
        "groups": details.groups,
        "labels": details.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "token_file": details.token_file,
        "if_answered": asked.if_answered,
        "ttl": ttl_in_json(asked.ttl),
    })
}

fn ttl_in_json(ttl: Ttl) -> Value {
    match ttl {
        Ttl::Default => Value::Null,
        Ttl::For(ttl) => ttl.as_secs().into(),
        Ttl::Process => "process".into(),
    }
}
