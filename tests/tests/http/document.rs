//! `docs/openapi.json` is served, and has the routes and the error codes of the daemon and no others.
//! The suite `clients` validates it, and real responses against it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fixture::Daemon;

const DOCUMENT: &str = include_str!("../../../docs/openapi.json");
/// Where the daemon selects the route of a request.
const ROUTES: [&str; 4] = [
    include_str!("../../../reaper-user/src/daemon/api/routes.rs"),
    include_str!("../../../reaper-user/src/daemon/api/documents.rs"),
    include_str!("../../../reaper-user/src/daemon/api/proof.rs"),
    include_str!("../../../reaper-user/src/daemon/api/replace.rs"),
];
/// Without HEAD, whose responses have no body.
const METHODS: [&str; 7] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE"];
/// Needs the transport TCP.
const OVER_TCP: &str = "/v1/proof";

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// The methods of each path, in capitals.
fn operations(document: &Value) -> BTreeMap<&str, BTreeSet<String>> {
    let paths = document["paths"].as_object().unwrap().iter();
    let methods = |item: &Value| {
        let methods = item.as_object().unwrap().keys();
        methods.map(|method| method.to_uppercase()).collect()
    };
    paths
        .map(|(path, item)| (path.as_str(), methods(item)))
        .collect()
}

/// A path that a route takes, in place of one with parameters.
fn example(path: &str) -> String {
    let token = format!("{:064x}", 7);
    path.replace("{token}", &token)
        .replace("{code}", "not_found")
        .replace(['{', '}'], "")
}

/// Whether the path with parameters stands for this one.
fn is_an(template: &str, path: &str) -> bool {
    let parts = || template.split('/').zip(path.split('/'));
    let is_as_long = template.split('/').count() == path.split('/').count();
    is_as_long && parts().all(|(part, given)| part == given || part.starts_with('{'))
}

fn is_no_route(response: &(u16, Value)) -> bool {
    response.0 == 404 && response.1["code"] == "not_found"
}

#[test]
fn the_served_document_is_the_one_in_the_repository() {
    let daemon = Daemon::start();
    let served = daemon.raw("GET /v1/openapi.json HTTP/1.0\r\n\r\n");
    let (head, body) = served.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(body, DOCUMENT);
    daemon.stop();
}

#[test]
fn each_documented_operation_has_a_route_and_no_other_method_has_one() {
    let document = document();
    let daemon = Daemon::start();
    let documented = operations(&document);
    for path in documented.keys().copied() {
        for method in METHODS {
            if method == "GET" && ["/v1/events", "/metrics"].contains(&path) {
                // Their responses are no JSON, and other tests read them.
                continue;
            }
            let response = daemon.request(method, &example(path), "", "");
            // The last part of a path may be the parameter of another one, as in /v1/inbox/ID.
            let takes_it = |(other, methods): (&&str, &BTreeSet<String>)| {
                is_an(other, path) && methods.contains(method)
            };
            let is_documented = documented.iter().any(takes_it) && path != OVER_TCP;
            assert_eq!(
                is_no_route(&response),
                !is_documented,
                "{method} {path}: {response:?}"
            );
        }
    }
    daemon.stop();
}

/// The paths in the source, which are text in quotes.
fn paths_in(source: &str) -> BTreeSet<&str> {
    let code = source.split("#[cfg(test)]").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let quoted = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    quoted.filter(|text| text.starts_with('/')).collect()
}

#[test]
fn each_path_of_the_daemon_is_documented() {
    let document = document();
    let documented = operations(&document);
    let found: BTreeSet<_> = ROUTES.into_iter().flat_map(paths_in).collect();
    assert!(found.len() > 25, "{found:?}");
    for path in found {
        let is_documented = if path.ends_with('/') {
            let parameter = format!("{path}{{");
            documented.keys().any(|known| known.starts_with(&parameter))
        } else {
            documented.contains_key(path)
        };
        assert!(is_documented, "{path} is not in docs/openapi.json");
    }
}

/// The codes of each status, over all operations.
fn codes(document: &Value) -> BTreeMap<&str, BTreeSet<u64>> {
    let mut codes: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let shared = &document["components"]["responses"];
    let operations = document["paths"].as_object().unwrap().values();
    let responses = operations
        .flat_map(|item| item.as_object().unwrap().values())
        .flat_map(|operation| operation["responses"].as_object().unwrap());
    for (status, response) in responses {
        let response = match response["$ref"].as_str() {
            Some(name) => &shared[name.rsplit_once('/').unwrap().1],
            None => response,
        };
        let status: u64 = status.parse().unwrap();
        for code in response["x-codes"].as_array().into_iter().flatten() {
            codes
                .entry(code.as_str().unwrap())
                .or_default()
                .insert(status);
        }
        assert_eq!(status >= 400, response["x-codes"].is_array(), "{response}");
    }
    codes
}

#[test]
fn the_documented_codes_are_those_of_the_daemon_with_their_statuses() {
    let document = document();
    let documented = codes(&document);
    let daemon = Daemon::start();
    let metrics = daemon.raw("GET /metrics HTTP/1.0\r\n\r\n");
    let reasons: BTreeSet<_> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("reaperd_refusals_total{reason=\""))
        .filter_map(|rest| Some(rest.split_once('"')?.0))
        .collect();
    assert_eq!(documented.keys().copied().collect::<BTreeSet<_>>(), reasons);
    for (code, statuses) in documented {
        let (status, page) = daemon.get(&format!("/problems/{code}"));
        assert_eq!((status, page["code"].as_str()), (200, Some(code)));
        let of_page: BTreeSet<_> = page["statuses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|status| status.as_u64().unwrap())
            .collect();
        assert_eq!(of_page, statuses, "{code}");
        assert!(
            statuses.contains(&page["status"].as_u64().unwrap()),
            "{code}"
        );
    }
    assert!(is_no_route(&daemon.get("/problems/no_such_code")));
    daemon.stop();
}

#[test]
fn a_problem_refers_to_its_page_which_has_its_title() {
    let daemon = Daemon::start();
    let (_, problem) = daemon.get("/v1/sessions/me");
    let (status, page) = daemon.get(problem["type"].as_str().unwrap());
    assert_eq!((status, &page["title"]), (200, &problem["title"]));
    let accept = "Accept: text/plain\r\n";
    let line = "GET /problems/no_session_token";
    let text = daemon.raw(reaper_tests::raw_http::request(line, accept, ""));
    assert!(text.contains("content-type: text/plain"), "{text}");
    assert!(
        text.contains("\r\n\r\nNo session (no_session_token)\nStatus: 401\n"),
        "{text}"
    );
    daemon.stop();
}

/// The codes in the table of `docs/http-api.md`, with their statuses.
fn codes_of_the_page() -> BTreeMap<&'static str, BTreeSet<u64>> {
    let page = include_str!("../../../docs/http-api.md");
    let mut codes: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for line in page.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let Some(Ok(status @ 400..600)) = cells.next().map(str::parse) else {
            continue;
        };
        let cell = cells.next().unwrap().split('(').next().unwrap();
        for code in cell.split('`').skip(1).step_by(2) {
            codes.entry(code).or_default().insert(status);
        }
    }
    codes
}

#[test]
fn the_page_of_the_interface_has_each_code_and_each_route() {
    let document = document();
    assert_eq!(codes_of_the_page(), codes(&document));
    let page = include_str!("../../../docs/http-api.md");
    for path in operations(&document).keys() {
        // Parameters are in capitals there.
        let shown = path
            .split('/')
            .map(|part| match part.strip_prefix('{') {
                Some(name) => name.trim_end_matches('}').to_uppercase(),
                None => part.to_owned(),
            })
            .collect::<Vec<_>>()
            .join("/");
        assert!(page.contains(&shown), "{shown} is not in docs/http-api.md");
    }
}
