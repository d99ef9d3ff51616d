//! Finds the end of a chunked body. Extensions, trailers and blanks are refused: no client sends
//! them, and parsers disagree about them.

use super::head::BODY_MAX;

/// Enough digits for a size above every limit.
const SIZE_DIGITS_MAX: u8 = 8;

/// The bytes are not a chunked body that this daemon accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunk")]
pub struct Malformed;

/// A position within a chunked body.
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    expecting: Expecting,
    total: u64,
}

#[derive(Clone, Copy, Debug)]
enum Expecting {
    Size { digits: u8, size: u64 },
    SizeLineFeed { size: u64 },
    Data { left: u64 },
    DataReturn,
    DataLineFeed,
    LastReturn,
    LastLineFeed,
}

impl Chunks {
    #[cfg_attr(
        all(feature = "cli", feature = "ebpf", target_os = "linux"),
        expect(clippy::new_without_default, reason = "a constant function")
    )]
    pub const fn new() -> Self {
        Self {
            expecting: Expecting::Size { digits: 0, size: 0 },
            total: 0,
        }
    }

    /// Returns whether the chunks so far are larger than a body may be.
    pub const fn is_too_large(&self) -> bool {
        self.total > BODY_MAX
    }

    /// Advances over `bytes`. Returns how many of them belong to this body, and whether it is
    /// complete. Passes the data of the chunks to `take`, which may overwrite it.
    pub fn walk(
        &mut self,
        bytes: &mut [u8],
        mut take: impl FnMut(&mut [u8]),
    ) -> Result<(usize, bool), Malformed> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            self.expecting = match (self.expecting, byte) {
                (Expecting::Size { digits, .. }, _)
                    if byte.is_ascii_hexdigit() && digits == SIZE_DIGITS_MAX =>
                {
                    return Err(Malformed);
                }
                (Expecting::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                    Expecting::Size {
                        digits: digits + 1,
                        size: size * 16
                            + u64::from(char::from(byte).to_digit(16).ok_or(Malformed)?),
                    }
                }
                (Expecting::Size { digits: 1.., size }, b'\r') => Expecting::SizeLineFeed { size },
                (Expecting::SizeLineFeed { size: 0 }, b'\n') => Expecting::LastReturn,
                (Expecting::SizeLineFeed { size }, b'\n') => {
                    self.total += size;
                    Expecting::Data { left: size }
                }
                (Expecting::Data { left }, _) => {
                    let here = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                    take(&mut bytes[at..at + here]);
                    // All available data at once; the last byte is counted below.
                    at += here - 1;
                    match left - here as u64 {
                        0 => Expecting::DataReturn,
                        left => Expecting::Data { left },
                    }
                }
                (Expecting::DataReturn, b'\r') => Expecting::DataLineFeed,
                (Expecting::DataLineFeed, b'\n') => Expecting::Size { digits: 0, size: 0 },
                (Expecting::LastReturn, b'\r') => Expecting::LastLineFeed,
                (Expecting::LastLineFeed, b'\n') => return Ok((at + 1, true)),
                _ => return Err(Malformed),
            };
            at += 1;
        }
        Ok((at, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the result of `walk`, and adds the data to `data`.
    fn walk(
        chunks: &mut Chunks,
        bytes: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(usize, bool), Malformed> {
        chunks.walk(&mut bytes.to_vec(), |taken| data.extend_from_slice(taken))
    }

    #[test]
    fn end_and_data_are_found_in_pieces_of_any_size() {
        let body = b"5\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\nGET /next";
        let end = body.len() - b"GET /next".len();
        for piece in 1..=body.len() {
            let mut chunks = Chunks::new();
            let mut at = 0;
            let mut data = Vec::new();
            loop {
                let upto = (at + piece).min(body.len());
                let (walked, complete) = walk(&mut chunks, &body[at..upto], &mut data).unwrap();
                at += walked;
                if complete {
                    break;
                }
            }
            assert_eq!(at, end, "in pieces of {piece}");
            assert_eq!(data, b"helloabcdefghijklmnopqrstuvwxyz");
        }
    }

    #[test]
    fn extensions_trailers_and_blanks_are_malformed() {
        for body in [
            "\r\n",
            "5\nhello\r\n",
            "5;ext=1\r\nhello\r\n",
            "5 \r\nhello\r\n",
            " 5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "0\r\nTrailer: x\r\n\r\n",
            "0\r\n\n",
            "000000005\r\nhello",
            "fffffffffffffffff\r\n",
        ] {
            assert_eq!(
                walk(&mut Chunks::new(), body.as_bytes(), &mut Vec::new()),
                Err(Malformed),
                "{body:?}"
            );
        }
    }

    #[test]
    fn the_sum_of_the_chunks_is_limited() {
        let mut chunks = Chunks::new();
        let mut walk = |bytes: &[u8]| walk(&mut chunks, bytes, &mut Vec::new());
        walk(b"10000\r\n").unwrap();
        walk(&vec![b'x'; 65_536]).unwrap();
        walk(b"\r\n").unwrap();
        let mut one_more = chunks;
        assert!(!chunks.is_too_large());
        self::walk(&mut one_more, b"1\r\n", &mut Vec::new()).unwrap();
        assert!(one_more.is_too_large());
    }
}
