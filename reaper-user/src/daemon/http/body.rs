//! Reads request bodies and builds responses.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode, Version};
use serde::Serialize;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::framing::{BODY_MAX, Refusal};
use super::problem::{Code, Problem};
use super::secrets::RequestSecrets;
use crate::daemon::api::events::EventStream;
use crate::daemon::api::sse;

/// How long a request body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a response.
pub(crate) type ResponseBody = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// Waits for the whole body and returns it, in a buffer that is zeroized on drop. Hyper has blanks in
/// its place, of the same length.
pub(crate) async fn read_body(
    body: Incoming,
    secrets: &RequestSecrets,
) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut body = std::pin::pin!(body);
    let reading = async {
        let mut length = 0_u64;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                log::debug!("reading a body: {error}");
                broken_body()
            })?;
            length += frame.data_ref().map_or(0, |data| data.len() as u64);
            if length > BODY_MAX {
                return Err(Refusal::BodyTooLarge.into());
            }
        }
        Ok(())
    };
    match timeout(BODY_TIMEOUT, reading).await {
        Ok(read) => read.map(|()| secrets.take_body()),
        Err(_elapsed) => Err(Problem::new(
            Code::BodyTimeout,
            "body timeout",
            format!("the body took longer than {} s", BODY_TIMEOUT.as_secs()),
        )
        .closing()),
    }
}

fn broken_body() -> Problem {
    Problem::new(
        Code::BrokenBody,
        "Error: invalid_json",
        "the body is truncated or not properly chunked",
    )
    .closing()
}

pub(crate) fn json(body: &impl Serialize) -> Response<ResponseBody> {
    let mut bytes = Vec::with_capacity(512);
    sse::write_json(&mut bytes, body);
    whole(StatusCode::OK, "application/json", bytes)
}

/// In the extensions of a response that refuses: the code of its problem, to be counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedWith(pub(crate) Code);

pub(crate) fn problem(problem: &Problem) -> Response<ResponseBody> {
    let mut response = whole(
        problem.status(),
        "application/problem+json",
        problem.to_json(),
    );
    response
        .extensions_mut()
        .insert(RefusedWith(problem.code()));
    let headers = response.headers_mut();
    if problem.closes() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(seconds) = problem.retry_after() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if let Some(scheme) = problem.authenticates_by() {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
    }
    response
}

pub(crate) fn whole(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<ResponseBody> {
    let mut response = with_type(content_type, Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response
}

/// A response of unknown length, which is chunked.
pub(crate) fn pieces(
    content_type: &'static str,
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) -> Response<ResponseBody> {
    with_type(content_type, Either::Right(body.boxed_unsync()))
}

fn with_type(content_type: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

pub(crate) fn event_stream(stream: EventStream) -> Response<ResponseBody> {
    let mut response = pieces("text/event-stream", stream);
    // HTTP/1.0 has no chunks: the body then ends with the connection.
    *response.version_mut() = Version::HTTP_10;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-cache, no-transform, no-store"),
        (header::CONNECTION, "close"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
