//! One request head and the body behind it. What the framing filter passes, a second parser must
//! delimit alike: `httparse` for the head and for the sizes of chunks, and the rules of RFC 9112,
//! section 6.3, implemented once more, for the length.

use std::ops::Range;

use reaperd::fuzzing::{BODY_MAX, BodyFraming, Chunks, REFUSAL_FIELD, Refusal, scan};

/// The first byte chooses the size of the pieces in which the rest arrives.
pub fn http_head(bytes: &[u8]) {
    let Some((&piece, stream)) = bytes.split_first() else {
        return;
    };
    let piece = usize::from(piece).max(1);
    let outcome = scan(stream, &mut 0);
    assert_eq!(scan_in_pieces(stream, piece), outcome);
    match outcome {
        Ok(None) => assert!(!stream.windows(4).any(|end| end == b"\r\n\r\n")),
        Ok(Some((length, framing))) => {
            check_head(&stream[..length], framing);
            if framing == BodyFraming::Chunked {
                check_chunks(&stream[length..], piece);
            }
        }
        Err(refusal) => {
            assert_eq!(Refusal::from_code(refusal.code().as_bytes()), Some(refusal));
            assert!(!refusal.to_string().is_empty());
        }
    }
}

/// As the filter does it: no byte is scanned twice.
fn scan_in_pieces(stream: &[u8], piece: usize) -> Result<Option<(usize, BodyFraming)>, Refusal> {
    let mut scanned = 0;
    let mut upto = 0;
    while upto < stream.len() {
        upto = (upto + piece).min(stream.len());
        match scan(&stream[..upto], &mut scanned) {
            Ok(None) => assert!(scanned <= upto),
            outcome => return outcome,
        }
    }
    Ok(None)
}

/// A head as the second parser reads it.
pub(super) struct SecondOpinion {
    pub(super) length: usize,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) is_1_1: bool,
    fields: Vec<(String, Vec<u8>)>,
}

impl SecondOpinion {
    /// `None` where the second parser refuses the head, or does not find its end.
    pub(super) fn of(stream: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; 256];
        let mut request = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(length) = request.parse(stream).ok()? else {
            return None;
        };
        let fields = request.headers.iter();
        Some(Self {
            length,
            method: request.method?.to_owned(),
            target: request.path?.to_owned(),
            is_1_1: request.version? == 1,
            fields: fields
                .map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec()))
                .collect(),
        })
    }

    /// Every value under this name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let fields = self.fields.iter().filter(move |(found, _)| found == name);
        fields.map(|(_, value)| value.as_slice())
    }

    /// RFC 9112, section 6.3, for unambiguous messages; `None` for the others.
    pub(super) fn framing(&self) -> Option<BodyFraming> {
        let lengths: Vec<_> = self.values("content-length").collect();
        let encodings: Vec<_> = self.values("transfer-encoding").collect();
        match (&lengths[..], &encodings[..]) {
            ([], []) => Some(BodyFraming::Length(0)),
            ([length], []) => str::from_utf8(length)
                .ok()
                .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok())
                .map(BodyFraming::Length),
            ([], [encoding]) if self.is_1_1 => encoding
                .eq_ignore_ascii_case(b"chunked")
                .then_some(BodyFraming::Chunked),
            _ => None,
        }
    }
}

fn check_head(head: &[u8], framing: BodyFraming) {
    let second = SecondOpinion::of(head).expect("the second parser accepts the head too");
    assert_eq!(second.length, head.len(), "the head ends elsewhere");
    assert_eq!(second.framing(), Some(framing), "the body ends elsewhere");
    assert!(!matches!(framing, BodyFraming::Length(length) if length > BODY_MAX));
    let version = if second.is_1_1 { "1.1" } else { "1.0" };
    let line = format!("{} {} HTTP/{version}", second.method, second.target);
    assert!(head.starts_with(format!("{line}\r\n").as_bytes()));
    assert_eq!(
        second.fields.len(),
        head.windows(2).filter(|end| *end == b"\r\n").count() - 2,
        "a field is more than one line, or less"
    );
    assert_eq!(second.values(REFUSAL_FIELD).count(), 0, "a forged refusal");
    assert!(second.values("host").count() <= 1);
}

/// The ranges of the data of a complete chunked body, and where the body ends. `None` where the second
/// parser does not find the end.
pub(super) fn chunks(body: &[u8]) -> Option<(Vec<Range<usize>>, usize)> {
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let httparse::Status::Complete((line, size)) =
            httparse::parse_chunk_size(&body[at..]).ok()?
        else {
            return None;
        };
        let start = at + line;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        if body.get(end..end.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        at = end + 2;
        if size == 0 {
            return Some((data, at));
        }
        data.push(start..end);
    }
}

fn check_chunks(body: &[u8], piece: usize) {
    let mut walker = Chunks::new();
    let whole = walker.walk(&mut body.to_vec(), |_data| {});
    let mut in_pieces = Chunks::new();
    let mut at = 0;
    let mut outcome = Ok((0, false));
    while at < body.len() {
        let part = &body[at..body.len().min(at + piece)];
        outcome = in_pieces.walk(&mut part.to_vec(), |_data| {});
        let Ok((taken, complete)) = outcome else {
            break;
        };
        at += taken;
        if complete {
            break;
        }
    }
    match whole {
        Ok((end, complete)) => {
            assert_eq!(
                (at, outcome.map(|(_, complete)| complete)),
                (end, Ok(complete))
            );
            assert_eq!(walker.is_too_large(), in_pieces.is_too_large());
            let second = chunks(body);
            if complete {
                let (data, second_end) = second.expect("the second parser finds the end too");
                assert_eq!(second_end, end);
                let sum: usize = data.iter().map(ExactSizeIterator::len).sum();
                assert_eq!(walker.is_too_large(), sum as u64 > BODY_MAX);
            } else {
                assert_eq!(end, body.len());
                assert_eq!(second, None, "the second parser finds an end");
            }
        }
        Err(malformed) => assert_eq!(outcome, Err(malformed)),
    }
}
