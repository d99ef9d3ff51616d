//! `GET /v1/proof?nonce=HEX`: over TCP the daemon proves that it has the bearer, before a client sends it.

use hyper::Response;
use hyper::http::request;
use serde::Serialize;

use super::App;
use crate::daemon::http::body::{ResponseBody, json};
use crate::daemon::http::problem::Problem;
use crate::daemon::http::query;

/// The path of the route.
pub(crate) const PATH: &str = "/v1/proof";
/// The digits of a nonce: 16 to 64 bytes.
const DIGITS: std::ops::RangeInclusive<usize> = 32..=128;

#[derive(Serialize)]
struct Proof {
    /// Where the daemon listens. A client compares it with the address that it has connected to.
    address: String,
    proof: String,
}

pub(super) fn proof(app: &App, head: &request::Parts) -> Result<Response<ResponseBody>, Problem> {
    let door = app.tcp.as_ref().ok_or_else(Problem::not_found)?;
    let nonce = query::value(head.uri.query(), "nonce").unwrap_or_default();
    let is_hex = nonce.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_hex || !DIGITS.contains(&nonce.len()) {
        return Err(Problem::query(
            "nonce",
            "nonce must be 32 to 128 hex digits",
        ));
    }
    Ok(json(&Proof {
        address: door.address.to_string(),
        proof: door.bearer.proof(door.address, &nonce),
    }))
}
