//! Tests of the statuses, codes and texts of errors.

use serde_json::{Value, json};

use super::*;

fn json_of(problem: &Problem) -> Value {
    serde_json::from_slice(&problem.to_json()).unwrap()
}

#[test]
fn a_problem_has_its_code_and_the_error_of_the_claudemesh_daemon() {
    assert_eq!(
        json_of(&Problem::not_found()),
        json!({
            "type": "/problems/not_found",
            "title": "Not found",
            "status": 404,
            "detail": "no route has this method and path",
            "code": "not_found",
            "error": "not found",
        })
    );
}

#[test]
fn an_invalid_field_is_named() {
    let problem = json_of(&TokenMalformed.into());
    assert_eq!(problem["status"], 422);
    assert_eq!(problem["field"], "token");
    assert_eq!(problem["error"], "token must be 64 hex chars");
}

#[test]
fn a_limit_has_a_retry_time_and_a_refusal_has_none() {
    let error = RegisterError::TooManyForOwner { owner: 1, limit: 2 };
    let problem = Problem::from(error);
    assert_eq!(problem.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(problem.retry_after(), Some(RETRY_AFTER_SECONDS));
    let error = RegisterError::TooManyBytesForOwner { owner: 1, limit: 2 };
    let problem = json_of(&error.into());
    assert_eq!(
        (&problem["status"], &problem["code"]),
        (&json!(429), &json!("too_many_bytes_of_user"))
    );
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("--max-bytes-per-uid")
    );
    assert!(
        Problem::from(RegisterError::TokenInUse)
            .retry_after()
            .is_none()
    );
}

#[test]
fn the_detail_describes_the_end_of_a_session() {
    use reaper_registry::{Death, Evidence, Exit, Source};
    let death = |status: Option<ExitStatus>| {
        Removal::Died(Death {
            source: Source::Netlink,
            evidence: Evidence::Pidfd,
            pid_reused: false,
            exit: status.map(|status| Exit {
                status,
                from: Source::Pidfd,
            }),
            detection: None,
        })
    };
    let signal = |core| ExitStatus::Signal { signal: 6, core };
    let by = "(cause exited, source netlink, evidence pidfd)";
    for (removal, text) in [
        (
            death(Some(ExitStatus::Code(3))),
            format!(": its process exited with code 3 {by}"),
        ),
        (
            death(Some(signal(false))),
            format!(": its process was ended by signal 6 {by}"),
        ),
        (
            death(Some(signal(true))),
            format!(": its process was ended by signal 6 and dumped core {by}"),
        ),
        (
            death(None),
            format!(": its process ended, with unknown status {by}"),
        ),
        (
            Removal::Expired,
            ": its ttl was over (cause expired)".to_owned(),
        ),
    ] {
        assert_eq!(how_it_ended(&removal, "its process"), text);
    }
}

#[test]
fn a_missing_authorization_is_named_by_its_scheme() {
    let by = |problem: Problem| problem.authenticates_by();
    let session = Problem::no_session(Code::UnknownSession, "");
    assert_eq!(by(session), Some("ClaudeMesh-Session"));
    assert_eq!(
        by(Problem::new(Code::MissingBearer, "", "")),
        Some("Bearer")
    );
    assert_eq!(by(Problem::unknown_id()), None, "404 with the same code");
}

#[test]
fn a_refused_head_closes_the_connection() {
    assert!(Problem::from(Refusal::BothLengths).closes());
    assert_eq!(Problem::from(Refusal::HeadTooLarge).status(), 431);
    assert_eq!(Problem::from(Refusal::BodyTooLarge).status(), 413);
    assert_eq!(Problem::from(Refusal::Host).status(), 400);
}
