//! What describes the interface: `GET /v1/openapi.json`, and `GET /problems/CODE`, to which the `type` of an
//! error refers.

use std::fmt::Write as _;

use hyper::http::request;
use hyper::{Response, StatusCode};

use crate::daemon::http::accept;
use crate::daemon::http::body::{ResponseBody, json, whole};
use crate::daemon::http::problem::{Code, Page, Problem};

/// The path of the document.
pub(super) const OPENAPI: &str = "/v1/openapi.json";
/// A link to `docs/openapi.json`, so that the package has it.
const DOCUMENT: &str = include_str!("openapi.json");
/// What precedes a code in the path of its page.
pub(super) const PROBLEMS: &str = "/problems/";

pub(super) fn openapi() -> Response<ResponseBody> {
    whole(StatusCode::OK, "application/json", DOCUMENT)
}

/// Describes the errors with this code, as JSON or, if the client prefers it, as text.
pub(super) fn problem_page(
    head: &request::Parts,
    code: &str,
) -> Result<Response<ResponseBody>, Problem> {
    let page = Code::named(code).ok_or_else(Problem::not_found)?.page();
    if accept::prefers(&head.headers, "text/plain", "application/json") {
        let content_type = "text/plain; charset=utf-8";
        return Ok(whole(StatusCode::OK, content_type, text(page)));
    }
    Ok(json(page))
}

fn text(page: &Page) -> String {
    let Page {
        code,
        title,
        status: _,
        statuses,
        meaning,
        remedy,
    } = page;
    let mut text = format!("{title} ({code})\nStatus:");
    for status in *statuses {
        write!(text, " {status}").expect("a string can be written");
    }
    text + &format!("\nMeaning: {meaning}\nRemedy: {remedy}\n")
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn a_page_is_json_or_text_and_an_unknown_code_has_none() {
        let answer = |accept: &str, code: &str| {
            let request = Request::builder()
                .header("accept", accept)
                .body(())
                .unwrap();
            let response = problem_page(&request.into_parts().0, code);
            response.map(|response| response.headers()["content-type"].clone())
        };
        assert_eq!(answer("*/*", "not_now").unwrap(), "application/json");
        assert_eq!(
            answer("text/plain", "not_now").unwrap(),
            "text/plain; charset=utf-8"
        );
        for unknown in ["", "none", "not_now/", "Not_now"] {
            assert_eq!(
                answer("*/*", unknown).unwrap_err().code(),
                Code::NotFound,
                "{unknown}"
            );
        }
    }

    #[test]
    fn the_text_has_the_whole_page() {
        assert_eq!(
            text(Code::Refused.page()),
            "Refused (refused)\nStatus: 409\nMeaning: The registry refused the registration for a reason that \
             this version has no code for.\nRemedy: See `detail`.\n"
        );
    }
}
