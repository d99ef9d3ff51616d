//! `GET /metrics`: the page of metrics, in the format that the `Accept` header prefers.
//!
//! Every user that is served can read it, as `/v1/health`: it has sums over all users. What single users
//! hold is in it for root only, as in `/v1/limits`.

use std::sync::Arc;

use hyper::http::request;
use hyper::{Response, StatusCode};

use super::App;
use crate::daemon::http::accept;
use crate::daemon::http::body::{ResponseBody, whole};
use crate::daemon::metrics::page::{Format, page};

pub(crate) fn metrics(
    app: &Arc<App>,
    head: &request::Parts,
    sees_users: bool,
) -> Response<ResponseBody> {
    let is_text = accept::prefers(&head.headers, "text/plain", "application/openmetrics-text");
    let format = if is_text {
        Format::Text
    } else {
        Format::OpenMetrics
    };
    let text = page(app, format, sees_users);
    whole(StatusCode::OK, format.content_type(), text)
}
