//! Query strings and percent escapes, decoded as `URLSearchParams` decodes them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Returns the pairs of a query string. A malformed escape is kept as it is.
pub fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.as_bytes())
}

/// Returns the value of the first pair with this key.
pub fn value<'a>(query: Option<&'a str>, key: &str) -> Option<Cow<'a, str>> {
    pairs(query?)
        .find(|(name, _)| name == key)
        .map(|(_, value)| value)
}

/// Returns the values of all pairs with this key.
pub(crate) fn values<'a>(query: Option<&'a str>, key: &str) -> impl Iterator<Item = Cow<'a, str>> {
    pairs(query.unwrap_or_default())
        .filter(move |(name, _)| name == key)
        .map(|(_, value)| value)
}

/// Decodes a path segment. Returns `None` if an escape is malformed or the result is not UTF-8.
pub fn decode_segment(segment: &str) -> Option<Cow<'_, str>> {
    // `percent_decode_str` keeps malformed escapes, so they are refused here.
    let is_escape = |rest: &str| {
        let digits = rest.as_bytes().first_chunk::<2>();
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !segment.split('%').skip(1).all(is_escape) {
        return None;
    }
    percent_decode_str(segment).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_decoded() {
        let read: Vec<_> = pairs("a=1&&b&%74oken=x%2By+z&c=%zz&d==").collect();
        let decoded: Vec<_> = read
            .iter()
            .map(|(key, value)| (key.as_ref(), value.as_ref()))
            .collect();
        assert_eq!(
            decoded,
            [
                ("a", "1"),
                ("b", ""),
                ("token", "x+y z"),
                ("c", "%zz"),
                ("d", "=")
            ]
        );
        assert_eq!(value(Some("x=1&x=2"), "x").as_deref(), Some("1"));
        assert_eq!(value(None, "x"), None);
        assert!(values(Some("x=1&y=3&x=%32"), "x").eq(["1", "2"]));
        assert_eq!(values(None, "x").count(), 0);
    }

    #[test]
    fn a_malformed_segment_is_refused() {
        assert_eq!(decode_segment("a%20b+c").as_deref(), Some("a b+c"));
        assert_eq!(decode_segment("%C3%A9").as_deref(), Some("é"));
        for malformed in ["%", "%2", "%zz", "a%", "%ff", "%+1"] {
            assert_eq!(decode_segment(malformed), None, "{malformed}");
        }
    }
}
