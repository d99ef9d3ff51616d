//! Which form of a response a client prefers (RFC 9110, section 12.5.1), as far as routes offer a choice.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, HeaderValue};

/// Returns whether `other`, a media type without parameters, is accepted and preferred to `usual`. A type that
/// is accepted only through a wildcard is not preferred to any.
pub(crate) fn prefers(headers: &HeaderMap, other: &str, usual: &str) -> bool {
    let values = headers.get_all(ACCEPT).iter();
    let accepted = values.filter_map(|value: &HeaderValue| value.to_str().ok());
    is_preferred(accepted, other, usual)
}

fn is_preferred<'a>(accepted: impl Iterator<Item = &'a str>, other: &str, usual: &str) -> bool {
    let (mut of_other, mut of_usual) = (0.0_f32, 0.0_f32);
    for range in accepted.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts
            .find_map(|parameter| parameter.strip_prefix("q="))
            .map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        if name.eq_ignore_ascii_case(usual) {
            of_usual = of_usual.max(quality);
        } else if name.eq_ignore_ascii_case(other) {
            of_other = of_other.max(quality);
        }
    }
    of_other > of_usual
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_form_is_sent_unless_another_is_preferred() {
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            ("text/html, application/json", false),
            ("text/plain", true),
            ("Text/Plain; version=0.0.4", true),
            ("application/openmetrics-text;q=0, text/plain", true),
            ("text/plain, application/openmetrics-text", false),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                false,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0.2,text/plain;version=0.0.4;q=0.3",
                true,
            ),
        ] {
            let usual = "application/openmetrics-text";
            let accepted = [accept].into_iter();
            assert_eq!(
                is_preferred(accepted, "text/plain", usual),
                expected,
                "{accept}"
            );
        }
    }
}
