//! `GET /metrics`: the page of metrics, in the format that the `Accept` header prefers.
//!
//! Every user that is served can read it, as `/v1/health`: it has sums over all users. What single users
//! hold is in it for root only, as in `/v1/limits`.

use std::sync::Arc;

use hyper::header::{ACCEPT, HeaderValue};
use hyper::http::request;
use hyper::{Response, StatusCode};

use super::App;
use crate::daemon::http::body::{ResponseBody, whole};
use crate::daemon::metrics::page::{Format, page};

pub(crate) fn metrics(
    app: &Arc<App>,
    head: &request::Parts,
    sees_users: bool,
) -> Response<ResponseBody> {
    let values = head.headers.get_all(ACCEPT).iter();
    let accepted = values.filter_map(|value: &HeaderValue| value.to_str().ok());
    let format = preferred(accepted);
    let text = page(app, format, sees_users);
    whole(StatusCode::OK, format.content_type(), text)
}

/// Returns OpenMetrics unless the plain text is accepted and preferred to it.
fn preferred<'a>(accepted: impl Iterator<Item = &'a str>) -> Format {
    let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
    for range in accepted.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts
            .find_map(|parameter| parameter.strip_prefix("q="))
            .map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        if name.eq_ignore_ascii_case("application/openmetrics-text") {
            open_metrics = open_metrics.max(quality);
        } else if name.eq_ignore_ascii_case("text/plain") {
            text = text.max(quality);
        }
    }
    if text > open_metrics {
        Format::Text
    } else {
        Format::OpenMetrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_is_preferred_and_openmetrics_by_default() {
        for (accept, expected) in [
            ("", Format::OpenMetrics),
            ("*/*", Format::OpenMetrics),
            ("text/html, application/json", Format::OpenMetrics),
            ("text/plain", Format::Text),
            ("Text/Plain; version=0.0.4", Format::Text),
            ("application/openmetrics-text;q=0, text/plain", Format::Text),
            (
                "text/plain, application/openmetrics-text",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0.2,text/plain;version=0.0.4;q=0.3",
                Format::Text,
            ),
        ] {
            assert_eq!(preferred([accept].into_iter()), expected, "{accept}");
        }
    }
}
