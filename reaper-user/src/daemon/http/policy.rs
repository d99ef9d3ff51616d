//! The checks that every request passes before routing, always in the same order. A refused request
//! reaches no handler.

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
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

fn check_host(head: &request::Parts) -> Result<(), Problem> {
    let host = head
        .headers
        .get(HOST)
        .map_or(Some(""), |host| host.to_str().ok());
    // A target in absolute form contains a host too, which must also be local.
    let host_in_target = head
        .uri
        .authority()
        .map(hyper::http::uri::Authority::as_str);
    if host.is_some_and(is_local) && host_in_target.is_none_or(is_local) {
        return Ok(());
    }
    Err(forbidden("forbidden host", "forbidden_host"))
}

/// Returns whether the host is local. As in the claudemesh daemon, it is cut at the first colon;
/// the IPv6 loopback, which that cut would refuse, is accepted too.
fn is_local(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix("[::1]") {
        return rest.is_empty() || rest.starts_with(':');
    }
    let name = host.split(':').next().unwrap_or_default();
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1"
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
    fn only_local_hosts_are_accepted() {
        for host in [
            "",
            "localhost",
            "LOCALHOST",
            "LocalHost:47823",
            "127.0.0.1",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:47823",
            "::1",
            ":anything",
            "localhost:x",
        ] {
            assert_eq!(refusal("/", &[("host", host)]), None, "{host:?}");
        }
        assert_eq!(refusal("/", &[]), None);
        for host in [
            "evil.example",
            "localhost.",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.2",
            "user@localhost",
            "localhost@evil.example",
            "[::1",
            "[::1]x",
            "[::2]",
            "0.0.0.0",
            "127.1",
            " localhost",
            "localhost ",
        ] {
            let expected = Some((403, "forbidden host".to_owned()));
            assert_eq!(refusal("/", &[("host", host)]), expected, "{host:?}");
        }
    }

    #[test]
    fn the_host_in_an_absolute_target_is_checked_too() {
        let local = ("host", "localhost");
        assert_eq!(refusal("http://localhost/v1/health", &[local]), None);
        assert_eq!(refusal("http://[::1]:9/v1/health", &[local]), None);
        for target in ["http://evil.example/", "http://localhost@evil.example/"] {
            assert_eq!(refusal(target, &[local]).unwrap().0, 403, "{target}");
        }
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
        let evil = [("host", "evil.example"), ("origin", "null")];
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
        assert_eq!(
            status(&[("origin", "x"), ("host", "x")]).1,
            "forbidden host"
        );
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
