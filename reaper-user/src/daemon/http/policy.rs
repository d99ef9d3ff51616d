//! The checks that every request passes before routing, always in the same order. A refused request
//! reaches no handler.

use std::net::IpAddr;

use hyper::Method;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN};
use hyper::http::request;

use super::problem::{Code, Problem};
use super::query;
use super::secrets::Claim;
use crate::daemon::api::{Transport, proof};

/// Checks one request. `first` is what its first `Authorization` field presents; returns what the
/// request presents.
pub(crate) fn check(
    head: &request::Parts,
    transport: Transport,
    first: Claim,
) -> Result<Claim, Problem> {
    let has_token_key = |text| query::pairs(text).any(|(key, _)| key == "token");
    if head.uri.query().is_some_and(has_token_key) {
        return Err(bad_request(
            Code::TokenInQuery,
            "token must be in Authorization header, not query string",
        ));
    }
    check_host(head, transport)?;
    if head
        .headers
        .get_all(ORIGIN)
        .iter()
        .any(|origin| !origin.is_empty())
    {
        return Err(forbidden("forbidden origin", Code::ForbiddenOrigin));
    }
    // Their values are blanked.
    if head.headers.get_all(AUTHORIZATION).iter().count() > 1 {
        return Err(bad_request(
            Code::TwoAuthorizations,
            "there must not be more than one Authorization header",
        ));
    }
    match transport {
        // The peer is already authenticated by the kernel.
        Transport::Unix => Ok(first),
        Transport::Tcp { public_health } => check_bearer(head, public_health, first),
        // There is nothing to authenticate for.
        Transport::Metrics { .. } => Ok(Claim::None),
    }
}

/// Over TCP the kernel shows no user, and the bearer stands for one. Two routes need none: the proof that
/// comes before it, and the health if it is public.
fn check_bearer(
    head: &request::Parts,
    public_health: bool,
    first: Claim,
) -> Result<Claim, Problem> {
    let is_open = head.method == Method::GET
        && match head.uri.path() {
            proof::PATH => true,
            "/v1/health" => public_health,
            _ => false,
        };
    let (code, error) = match first {
        Claim::Bearer { is_valid: true } => return Ok(first),
        _ if is_open => return Ok(Claim::None),
        Claim::Bearer { is_valid: false } => (Code::InvalidBearer, "invalid bearer token"),
        Claim::None | Claim::Malformed | Claim::Token(_) => {
            (Code::MissingBearer, "missing bearer token")
        }
    };
    Err(Problem::new(
        code,
        error,
        "present the text of the file local-token beside the daemon's socket as Authorization: Bearer",
    ))
}

/// Over a Unix socket the host means nothing, so that any well-formed one is served: clients send the
/// name of their transport, or the path of the socket. Over TCP on the loopback interface it must be that
/// interface: any other name is one that its owner has made to lead here.
fn check_host(head: &request::Parts, transport: Transport) -> Result<(), Problem> {
    let in_field = head.headers.get(HOST).map(HeaderValue::as_bytes);
    let in_target = head.uri.authority().map(|host| host.as_str().as_bytes());
    let mut hosts = in_field.into_iter().chain(in_target);
    if !hosts.clone().all(is_host) {
        return Err(bad_request(
            Code::BadHostField,
            "the host is not a name or an address with an optional port",
        ));
    }
    let must_be_local = match transport {
        Transport::Unix => false,
        Transport::Tcp { .. } => true,
        Transport::Metrics { is_local } => is_local,
    };
    // Programs send an empty one, browsers never.
    let may_be_empty = matches!(transport, Transport::Tcp { .. });
    if must_be_local && !hosts.all(|host| is_loopback(host) || (may_be_empty && host.is_empty())) {
        return Err(forbidden("forbidden host", Code::ForbiddenHost));
    }
    Ok(())
}

/// Returns whether the host, without its port, names the loopback interface.
fn is_loopback(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is_address = address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    is_address || name.eq_ignore_ascii_case("localhost")
}

/// Returns whether these are the characters of a host and a port (RFC 3986, section 3.2), without
/// user information.
fn is_host(host: &[u8]) -> bool {
    let is_allowed =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    host.iter().all(is_allowed)
}

fn bad_request(code: Code, error: &'static str) -> Problem {
    Problem::new(code, error, error)
}

fn forbidden(error: &'static str, code: Code) -> Problem {
    Problem::new(
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
        super::check(&head, Transport::Unix, Claim::Malformed).map_err(|problem| {
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
    fn over_loopback_tcp_the_host_must_be_the_loopback_interface() {
        let refusal = |target: &str, host: &str, is_local| {
            let request = Request::builder().uri(target).header("host", host);
            let head = request.body(()).unwrap().into_parts().0;
            let transport = Transport::Metrics { is_local };
            let checked = super::check(&head, transport, Claim::None);
            checked.err().map(|refused| refused.code().name())
        };
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]:9464",
        ] {
            assert_eq!(refusal("/metrics", host, true), None, "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example:80",
            "10.0.0.1",
            "",
            ":80",
        ] {
            assert_eq!(
                refusal("/metrics", host, true),
                Some("forbidden_host"),
                "{host}"
            );
            assert_eq!(refusal("/metrics", host, false), None, "{host}");
        }
        let foreign_target = refusal("http://evil.example/metrics", "localhost", true);
        assert_eq!(foreign_target, Some("forbidden_host"));
        assert_eq!(refusal("/metrics", "a@b", false), Some("bad_host_field"));
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
}
