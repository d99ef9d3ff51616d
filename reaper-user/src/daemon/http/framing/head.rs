//! The rules for one request head, as bytes. Everything that two HTTP parsers could read
//! differently is refused, so that hyper and any proxy before the daemon agree on where each
//! message ends.

use hyper::Uri;

/// The largest size of a head, as in the claudemesh daemon.
pub const HEAD_MAX: usize = 16 * 1024;
/// The largest size of a body.
pub const BODY_MAX: u64 = 64 * 1024;
/// The largest number of fields. No client sends as many, and each costs time in every later step.
const FIELDS_MAX: usize = 64;
/// The field by which the framing filter passes a refusal to the service. Refused in heads of
/// clients.
pub const REFUSAL_FIELD: &str = "reaperd-refusal";

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("a line of the head ends in a bare line feed")]
    BareLineFeed,
    #[error("a line of the head continues the one before it")]
    FoldedLine,
    #[error("the request line is not METHOD, one space, target, one space, HTTP/1.0 or HTTP/1.1")]
    RequestLine,
    #[error("a field name is empty, contains a blank or is followed by one")]
    FieldName,
    #[error("a field value contains a control byte")]
    FieldValue,
    #[error("the content length is not a plain decimal number")]
    Length,
    #[error("there is more than one content length")]
    TwoLengths,
    #[error("there is both a content length and a transfer encoding")]
    BothLengths,
    #[error("the only supported transfer encoding is chunked, once, in HTTP/1.1")]
    TransferEncoding,
    #[error("HTTP/1.1 needs exactly one Host field")]
    Host,
    #[error("the head is larger than {HEAD_MAX} bytes or has more than {FIELDS_MAX} fields")]
    HeadTooLarge,
    #[error("the body is larger than {BODY_MAX} bytes")]
    BodyTooLarge,
}

const ALL: [Refusal; 12] = [
    Refusal::BareLineFeed,
    Refusal::FoldedLine,
    Refusal::RequestLine,
    Refusal::FieldName,
    Refusal::FieldValue,
    Refusal::Length,
    Refusal::TwoLengths,
    Refusal::BothLengths,
    Refusal::TransferEncoding,
    Refusal::Host,
    Refusal::HeadTooLarge,
    Refusal::BodyTooLarge,
];

impl Refusal {
    /// Returns the `code` of the error.
    pub const fn code(self) -> &'static str {
        match self {
            Self::BareLineFeed => "bare_line_feed",
            Self::FoldedLine => "folded_line",
            Self::RequestLine => "bad_request_line",
            Self::FieldName => "bad_field_name",
            Self::FieldValue => "bad_field_value",
            Self::Length => "bad_content_length",
            Self::TwoLengths => "two_content_lengths",
            Self::BothLengths => "both_length_fields",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::Host => "bad_host_field",
            Self::HeadTooLarge => "head_too_large",
            Self::BodyTooLarge => "payload_too_large",
        }
    }

    /// Returns the refusal that the framing filter wrote into [`REFUSAL_FIELD`].
    pub fn from_code(code: &[u8]) -> Option<Self> {
        ALL.into_iter()
            .find(|refusal| refusal.code().as_bytes() == code)
    }
}

/// How the body behind a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    Length(u64),
    Chunked,
}

/// What the fields so far contain.
#[derive(Default)]
struct Seen {
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

/// Checks a whole head, including its final empty line. Every line feed in it must follow a
/// carriage return.
pub(crate) fn check(head: &[u8]) -> Result<BodyFraming, Refusal> {
    let mut lines = head
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let is_1_1 = request_line(lines.next().unwrap_or_default())?;
    let mut seen = Seen::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        field(line, &mut seen)?;
    }
    let Seen {
        fields,
        hosts,
        length,
        chunked,
    } = seen;
    if fields > FIELDS_MAX {
        return Err(Refusal::HeadTooLarge);
    }
    // HTTP/1.0 has no Host. Two of them are ambiguous in any version.
    if hosts > 1 || (is_1_1 && hosts == 0) {
        return Err(Refusal::Host);
    }
    match (length, chunked) {
        (Some(_), true) => Err(Refusal::BothLengths),
        (None, true) if !is_1_1 => Err(Refusal::TransferEncoding),
        (None, true) => Ok(BodyFraming::Chunked),
        (Some(length), false) if length > BODY_MAX => Err(Refusal::BodyTooLarge),
        (length, false) => Ok(BodyFraming::Length(length.unwrap_or(0))),
    }
}

/// Returns whether the version is 1.1.
fn request_line(line: &[u8]) -> Result<bool, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::RequestLine);
    };
    let well_formed = !method.is_empty()
        && method.iter().copied().all(is_token_byte)
        && target.iter().all(u8::is_ascii_graphic)
        // Hyper refuses a target that it cannot parse with a response without a body.
        && Uri::try_from(target).is_ok();
    match version {
        b"HTTP/1.1" if well_formed => Ok(true),
        b"HTTP/1.0" if well_formed => Ok(false),
        _ => Err(Refusal::RequestLine),
    }
}

fn field(line: &[u8], seen: &mut Seen) -> Result<(), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::FoldedLine);
    }
    let colon = line
        .iter()
        .position(|byte| *byte == b':')
        .ok_or(Refusal::FieldName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty()
        || !name.iter().copied().all(is_token_byte)
        || name.eq_ignore_ascii_case(REFUSAL_FIELD.as_bytes())
    {
        return Err(Refusal::FieldName);
    }
    // This includes a carriage return: the one at the end of the line is already removed.
    if value
        .iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return Err(Refusal::FieldValue);
    }
    seen.fields += 1;
    if name.eq_ignore_ascii_case(b"host") {
        seen.hosts += 1;
    } else if name.eq_ignore_ascii_case(b"content-length") {
        if seen.length.replace(content_length(value)?).is_some() {
            return Err(Refusal::TwoLengths);
        }
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        let value = value.trim_ascii();
        if seen.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::TransferEncoding);
        }
        seen.chunked = true;
    }
    Ok(())
}

/// Parses digits after at most the one usual blank: no sign, no list, no further blank.
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let digits = value.strip_prefix(b" ").unwrap_or(value);
    // Nineteen digits always fit into u64, and longer numbers are too large in any case.
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Length);
    }
    Ok(digits
        .iter()
        .fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framing(fields: &str) -> Result<BodyFraming, Refusal> {
        check(format!("POST /x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes())
    }

    #[test]
    fn ordinary_heads_are_accepted() {
        for (fields, expected) in [
            ("", BodyFraming::Length(0)),
            ("Content-Length: 12\r\n", BodyFraming::Length(12)),
            ("content-length:65536\r\n", BodyFraming::Length(BODY_MAX)),
            ("Transfer-Encoding: chunked\r\n", BodyFraming::Chunked),
            ("TRANSFER-ENCODING:CHUNKED\r\n", BodyFraming::Chunked),
            (
                "X-Empty:\r\nX-Tab: a\tb\r\nX-Latin: \u{e9}\r\n",
                BodyFraming::Length(0),
            ),
        ] {
            assert_eq!(framing(fields), Ok(expected), "{fields:?}");
        }
        assert_eq!(check(b"GET / HTTP/1.0\r\n\r\n"), Ok(BodyFraming::Length(0)));
        assert!(check(b"GET //x HTTP/1.1\r\nhost:\r\n\r\n").is_ok());
    }

    #[test]
    fn every_ambiguous_head_is_refused() {
        for (fields, expected) in [
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                Refusal::BothLengths,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                Refusal::BothLengths,
            ),
            (
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                Refusal::TwoLengths,
            ),
            (
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                Refusal::TwoLengths,
            ),
            ("Content-Length: 5, 5\r\n", Refusal::Length),
            ("Content-Length: +5\r\n", Refusal::Length),
            ("Content-Length: -5\r\n", Refusal::Length),
            ("Content-Length: 5 \r\n", Refusal::Length),
            ("Content-Length:  5\r\n", Refusal::Length),
            ("Content-Length: 1 2\r\n", Refusal::Length),
            ("Content-Length: 0x5\r\n", Refusal::Length),
            ("Content-Length: 5.0\r\n", Refusal::Length),
            ("Content-Length:\r\n", Refusal::Length),
            ("Content-Length: 18446744073709551616\r\n", Refusal::Length),
            ("Content-Length: 65537\r\n", Refusal::BodyTooLarge),
            ("Content-Length : 5\r\n", Refusal::FieldName),
            ("Content-Length\t: 5\r\n", Refusal::FieldName),
            ("Transfer-Encoding : chunked\r\n", Refusal::FieldName),
            (" X: folded first\r\n", Refusal::FoldedLine),
            ("X: a\r\n b\r\n", Refusal::FoldedLine),
            ("X: a\r\n\tb\r\n", Refusal::FoldedLine),
            ("X: a\rY: b\r\n", Refusal::FieldValue),
            ("X: a\0b\r\n", Refusal::FieldValue),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Refusal::TransferEncoding,
            ),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                Refusal::TransferEncoding,
            ),
            (
                "Transfer-Encoding: chunked, identity\r\n",
                Refusal::TransferEncoding,
            ),
            ("Transfer-Encoding: xchunked\r\n", Refusal::TransferEncoding),
            ("Transfer-Encoding:\u{b}chunked\r\n", Refusal::FieldValue),
            ("Transfer-Encoding: identity\r\n", Refusal::TransferEncoding),
            (": no name\r\n", Refusal::FieldName),
            ("no colon\r\n", Refusal::FieldName),
            ("X\u{e9}: a\r\n", Refusal::FieldName),
            ("Host: localhost\r\n", Refusal::Host),
            ("Reaperd-Refusal: bad_host_field\r\n", Refusal::FieldName),
        ] {
            assert_eq!(framing(fields), Err(expected), "{fields:?}");
        }
    }

    #[test]
    fn a_request_line_must_match_exactly() {
        for line in [
            "",
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET / HTTP/1.2",
            "GET / HTTP/2.0",
            "GET / http/1.1",
            "GET\t/\tHTTP/1.1",
            "G@T / HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET /\0 HTTP/1.1",
            "GET v1/health HTTP/1.1",
            "GET http:// HTTP/1.1",
            "GET ?a=b HTTP/1.1",
            "GET / HTTP/1.1\r",
        ] {
            let head = format!("{line}\r\nHost: localhost\r\n\r\n");
            assert_eq!(
                check(head.as_bytes()),
                Err(Refusal::RequestLine),
                "{line:?}"
            );
        }
    }

    #[test]
    fn one_host_is_required_in_1_1_and_two_are_refused_in_any_version() {
        assert_eq!(check(b"GET / HTTP/1.1\r\n\r\n"), Err(Refusal::Host));
        assert_eq!(
            check(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"),
            Err(Refusal::Host)
        );
        assert_eq!(
            check(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(Refusal::TransferEncoding)
        );
    }

    #[test]
    fn too_many_fields_are_refused() {
        let fields = |count: usize| "X: y\r\n".repeat(count);
        assert!(framing(&fields(FIELDS_MAX - 1)).is_ok());
        assert_eq!(framing(&fields(FIELDS_MAX)), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn each_refusal_is_parsed_from_its_code() {
        for refusal in ALL {
            assert_eq!(Refusal::from_code(refusal.code().as_bytes()), Some(refusal));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_checked_without_a_panic(bytes: Vec<u8>) {
            let _result = check(&bytes).is_ok();
        }
    }
}
