//! The checks that every request passes before routing, always in the same order. A refused request
//! reaches no handler.

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN};
use hyper::http::request;
use reaper_registry::Token;

use super::problem::Problem;
use super::query;
use crate::daemon::api::Transport;

/// The authentication scheme that presents a session, in any case.
const SESSION_SCHEME: &str = "claudemesh-session";

/// The session that a request presents. Whether it is live is checked by the route.
pub(crate) enum Claim {
    None,
    /// A session was presented with a malformed token.
    Malformed,
    Token(Token),
}

/// Checks one request. Returns the session that it presents.
pub(crate) fn check(head: &request::Parts, transport: Transport) -> Result<Claim, Problem> {
    let has_token_key = |text| query::pairs(text).any(|(key, _)| key == "token");
    if head.uri.query().is_some_and(has_token_key) {
        return Err(bad_request(
            "token_in_query",
            "token must be in Authorization header, not query string",
        ));
    }
    check_host(head)?;
    if head
        .headers
        .get_all(ORIGIN)
        .iter()
        .any(|origin| !origin.is_empty())
    {
        return Err(forbidden("forbidden origin", "forbidden_origin"));
    }
    let mut authorizations = head.headers.get_all(AUTHORIZATION).iter();
    let first = authorizations.next();
    if authorizations.next().is_some() {
        return Err(bad_request(
            "two_authorizations",
            "there must not be more than one Authorization header",
        ));
    }
    match transport {
        // The peer is already authenticated by the kernel.
        Transport::Unix => Ok(first.map_or(Claim::None, |value| claim(value.as_bytes()))),
    }
}

/// Over a Unix socket the host means nothing, so that any well-formed one is served: clients send the
/// name of their transport, or the path of the socket.
fn check_host(head: &request::Parts) -> Result<(), Problem> {
    let in_field = head.headers.get(HOST).map(HeaderValue::as_bytes);
    let in_target = head.uri.authority().map(|host| host.as_str().as_bytes());
    if in_field.into_iter().chain(in_target).all(is_host) {
        return Ok(());
    }
    Err(bad_request(
        "bad_host_field",
        "the host is not a name or an address with an optional port",
    ))
}

/// Returns whether these are the characters of a host and a port (RFC 3986, section 3.2), without
/// user information.
fn is_host(host: &[u8]) -> bool {
    let is_allowed =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    host.iter().all(is_allowed)
}

fn claim(authorization: &[u8]) -> Claim {
    let mut parts = authorization.splitn(2, |byte| *byte == b' ');
    let scheme = parts.next().unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(SESSION_SCHEME.as_bytes()) {
        return Claim::None;
    }
    let value = parts.next().unwrap_or_default().trim_ascii();
    str::from_utf8(value)
        .ok()
        .and_then(|text| Token::parse(text).ok())
        .map_or(Claim::Malformed, Claim::Token)
}

fn bad_request(code: &'static str, error: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, code, error, error)
}

fn forbidden(error: &'static str, code: &'static str) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        code,
        error,
        "only local programs are served, not pages in a browser",
    )
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn check(target: &str, fields: &[(&str, &str)]) -> Result<Claim, (u16, String)> {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        super::check(&head, Transport::Unix).map_err(|problem| {
            let json: serde_json::Value = serde_json::from_slice(&problem.to_json()).unwrap();
            (
                problem.status().as_u16(),
                json["error"].as_str().unwrap().to_owned(),
            )
        })
    }

    fn refusal(target: &str, fields: &[(&str, &str)]) -> Option<(u16, String)> {
        check(target, fields).err()
    }

    #[test]
    fn any_well_formed_host_is_served() {
        for host in [
            "",
            "localhost",
            "unix",
            "docker",
            "d.sock",
            "reaperd.example:80",
            "[::1]:47823",
            "%2Frun%2Freaperd%2Freaperd.sock",
        ] {
            assert_eq!(refusal("/", &[("host", host)]), None, "{host:?}");
        }
        assert_eq!(refusal("/", &[]), None);
        for host in ["user@localhost", "a/b", "a b", "a?b", "\"a\""] {
            let refused = refusal("/", &[("host", host)]);
            assert_eq!(refused.unwrap().0, 400, "{host:?}");
        }
    }

    #[test]
    fn the_host_in_an_absolute_target_is_checked_too() {
        let local = ("host", "localhost");
        assert_eq!(refusal("http://unix/v1/health", &[local]), None);
        assert_eq!(refusal("http://[::1]:9/v1/health", &[local]), None);
        let refused = refusal("http://user@localhost/", &[local]);
        assert_eq!(refused.unwrap().0, 400);
    }

    #[test]
    fn any_origin_is_refused() {
        assert_eq!(refusal("/", &[("origin", "")]), None);
        for origin in ["null", "http://localhost", "https://evil.example"] {
            let expected = Some((403, "forbidden origin".to_owned()));
            assert_eq!(refusal("/", &[("origin", origin)]), expected);
        }
        assert!(refusal("/", &[("origin", ""), ("origin", "null")]).is_some());
    }

    #[test]
    fn a_token_in_the_query_is_refused_before_any_other_check() {
        let evil = [("host", "evil@example"), ("origin", "null")];
        for target in [
            "/?token=x",
            "/?token",
            "/?token=",
            "/v1/x?a=1&token=2",
            "/?%74oken=x",
            "//?token=",
            "http://localhost/?token=x",
        ] {
            let error = "token must be in Authorization header, not query string".to_owned();
            assert_eq!(refusal(target, &evil), Some((400, error)), "{target}");
        }
        assert_eq!(refusal("/?tokens=x&Token=y", &[]), None);
    }

    #[test]
    fn the_host_is_checked_before_the_origin_and_both_before_authorization() {
        let two = [("authorization", "a"), ("authorization", "b")];
        let status = |more: &[(&str, &str)]| refusal("/", &[&two[..], more].concat()).unwrap();
        assert_eq!(status(&[]).0, 400);
        assert_eq!(status(&[("origin", "x")]).1, "forbidden origin");
        let host = "the host is not a name or an address with an optional port";
        assert_eq!(status(&[("origin", "x"), ("host", "x@y")]).1, host);
    }

    #[test]
    fn a_session_is_presented_by_its_scheme_and_a_token() {
        let of = |value: &str| check("/", &[("authorization", value)]).ok().unwrap();
        let hex = "aB".repeat(32);
        for value in [
            format!("ClaudeMesh-Session {hex}"),
            format!("claudemesh-session {hex}"),
            format!("CLAUDEMESH-SESSION   {}", hex.to_uppercase()),
        ] {
            assert!(
                matches!(of(&value), Claim::Token(token) if *token.reveal() == "ab".repeat(32))
            );
        }
        for value in [
            "ClaudeMesh-Session".to_owned(),
            "ClaudeMesh-Session ".to_owned(),
            format!("ClaudeMesh-Session {}", &hex[1..]),
            format!("ClaudeMesh-Session {hex}0"),
            format!("ClaudeMesh-Session {hex} {hex}"),
            format!("ClaudeMesh-Session \"{hex}\""),
            "ClaudeMesh-Session null".to_owned(),
        ] {
            assert!(matches!(of(&value), Claim::Malformed), "{value}");
        }
        for value in [
            "",
            "Bearer x",
            &hex,
            "ClaudeMesh-Sessions x",
            "ClaudeMesh-Session:x",
        ] {
            assert!(matches!(of(value), Claim::None), "{value}");
        }
        assert!(matches!(check("/", &[]), Ok(Claim::None)));
    }
}
