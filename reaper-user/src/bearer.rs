//! The bearer of the API over TCP, as the daemon and its clients know it: the form of its file, and the proof of
//! who has it. The daemon creates and keeps it in `daemon/tcp/bearer.rs`; the client presents it in
//! `client/tcp.rs`.

use std::fmt::Write as _;
use std::net::SocketAddr;

use hmac_sha256::HMAC;
use zeroize::Zeroizing;

/// The file beside the socket.
pub(crate) const FILE_NAME: &str = "local-token";
/// The characters of a bearer: base64url of 32 bytes, without padding.
pub(crate) const LENGTH: usize = 43;
/// The first line of what is signed, so that a proof is of no use for anything else.
const PURPOSE: &str = "reaperd-proof-v1";

/// The bearer, as in the file, without the line end.
pub(crate) type Text = Zeroizing<[u8; LENGTH]>;

/// Reads the content of the file. `None`: it is no bearer.
pub(crate) fn parse(file: &[u8]) -> Option<Text> {
    let text = file.trim_ascii();
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !text.iter().all(is_digit) {
        return None;
    }
    text.try_into().ok().map(Zeroizing::new)
}

/// Returns the proof that who listens on this address has the bearer: an HMAC-SHA256 in hex. With the address in
/// it, a program on another one cannot pass it on as its own.
pub(crate) fn proof(text: &Text, address: SocketAddr, nonce: &str) -> String {
    let signed = format!("{PURPOSE}\n{address}\n{nonce}");
    as_hex(&HMAC::mac(signed.as_bytes(), text.as_slice()))
}

/// Returns the bytes in lower-case hex.
pub(crate) fn as_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap_or_default();
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_bearer_is_refused() {
        let right = [b'a'; LENGTH];
        assert!(parse(&right).is_some());
        assert!(parse(&[b" ".as_slice(), &right, b"\r\n"].concat()).is_some());
        for wrong in [
            Vec::new(),
            vec![b'a'; LENGTH - 1],
            vec![b'a'; LENGTH + 1],
            [&right[1..], b"+"].concat(),
            [&right[..20], b"\n", &right[21..]].concat(),
        ] {
            assert!(parse(&wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_proof_is_the_documented_hmac_and_depends_on_address_and_nonce() {
        let text = Zeroizing::new([b'a'; LENGTH]);
        let proof = |address: &str, nonce| proof(&text, address.parse().unwrap(), nonce);
        // printf 'reaperd-proof-v1\n127.0.0.1:47823\n00ff' | openssl dgst -sha256 -hmac aaa…
        let expected = "04612b8333d892f230d361aef3dd5ccd87470b3baca8f6c186976fa2246fd0f8";
        assert_eq!(proof("127.0.0.1:47823", "00ff"), expected);
        assert_ne!(proof("[::1]:47823", "00ff"), expected);
        assert_ne!(proof("127.0.0.1:47824", "00ff"), expected);
        assert_ne!(proof("127.0.0.1:47823", "00fe"), expected);
    }
}
