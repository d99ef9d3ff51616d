//! Query strings and percent escapes, read as `URLSearchParams` reads them.

use std::borrow::Cow;

/// The pairs of a query string.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (form_decode(key), form_decode(value))
        })
}

/// The value of the first pair with this key.
pub(crate) fn value<'a>(query: Option<&'a str>, key: &str) -> Option<Cow<'a, str>> {
    pairs(query?)
        .find(|(name, _)| name == key)
        .map(|(_, value)| value)
}

/// A path segment without its escapes; `None` where an escape is broken or the text is not UTF-8.
pub(crate) fn decode_segment(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(segment.into());
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let (escape, behind) = rest.split_at_checked(2)?;
            decoded.push(escaped_byte(escape)?);
            rest = behind;
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// Broken escapes stand for themselves, and a plus for a blank.
fn form_decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => match rest.split_at_checked(2).map(|(two, _)| escaped_byte(two)) {
                Some(Some(byte)) => {
                    decoded.push(byte);
                    rest = &rest[2..];
                }
                _ => decoded.push(b'%'),
            },
            byte => decoded.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn escaped_byte(digits: &[u8]) -> Option<u8> {
    let [high, low] = digits else { return None };
    let value = |digit: &u8| char::from(*digit).to_digit(16);
    u8::try_from(value(high)? * 16 + value(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_lose_their_escapes() {
        let read: Vec<_> = pairs("a=1&&b&%74oken=x%2By+z&c=%zz&d==").collect();
        let plain: Vec<_> = read
            .iter()
            .map(|(key, value)| (key.as_ref(), value.as_ref()))
            .collect();
        assert_eq!(
            plain,
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
    }

    #[test]
    fn a_broken_segment_is_none() {
        assert_eq!(decode_segment("a%20b+c").as_deref(), Some("a b+c"));
        assert_eq!(decode_segment("%C3%A9").as_deref(), Some("é"));
        for broken in ["%", "%2", "%zz", "a%", "%ff", "%+1"] {
            assert_eq!(decode_segment(broken), None, "{broken}");
        }
    }
}
