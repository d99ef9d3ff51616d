//! The bearer: a secret in a file beside the socket, which a client that can read the file presents over TCP.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use hmac_sha256::HMAC;
use zeroize::Zeroizing;

use crate::daemon::api::listener::Folder;
use crate::daemon::own_files::{self, NotOwnFile};

/// The file beside the socket.
const FILE_NAME: &str = "local-token";
/// The random bytes of a new bearer.
const BYTES: usize = 32;
/// The characters of a bearer: base64url of its bytes, without padding.
const LENGTH: usize = 43;
/// The first line of what is signed, so that a proof is of no use for anything else.
const PURPOSE: &str = "reaperd-proof-v1";
/// How often another program may create the file at the same moment.
const TRIES: usize = 4;

/// The secret of one daemon.
pub(crate) struct Bearer {
    /// As in the file, without the line end.
    text: Zeroizing<[u8; LENGTH]>,
    /// Of this process, for comparisons.
    key: Zeroizing<[u8; BYTES]>,
    /// The digest of the text under this key.
    digest: [u8; BYTES],
}

/// The bearer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BearerError {
    #[error(transparent)]
    File(#[from] NotOwnFile),
    #[error("{0:?} is not a bearer: 43 characters of base64url in one line")]
    Malformed(PathBuf),
    #[error("cannot create {path:?}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("the system gives no random bytes: {0}")]
    Random(io::Error),
}

impl BearerError {
    /// Returns the remedy, for the line behind `try:`.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::File(NotOwnFile::System { .. }) | Self::Create { .. } => {
                "check that this user may write there".to_owned()
            }
            Self::File(NotOwnFile::Foreign { path, .. } | NotOwnFile::Open { path, .. })
            | Self::Malformed(path) => {
                format!(
                    "rm {}   (a new one is created; clients read it again)",
                    path.display()
                )
            }
            Self::Random(_) => "check that getrandom(2) is allowed here".to_owned(),
        }
    }
}

impl Bearer {
    fn new(text: Zeroizing<[u8; LENGTH]>, key: Zeroizing<[u8; BYTES]>) -> Self {
        let digest = HMAC::mac(text.as_slice(), key.as_slice());
        Self { text, key, digest }
    }

    /// Reads the bearer in this folder, or creates it.
    pub(crate) fn of_folder(folder: &Folder) -> Result<Self, BearerError> {
        let path = folder.path().join(FILE_NAME);
        for _ in 0..TRIES {
            if let Some(found) = own_files::read(folder, FILE_NAME)? {
                let text = parse(&found).ok_or(BearerError::Malformed(path))?;
                let key = random().map_err(BearerError::Random)?;
                return Ok(Self::new(text, key));
            }
            let new = new_file().map_err(BearerError::Random)?;
            // Read again in any case: another program may have been faster.
            own_files::create(folder, FILE_NAME, &new).map_err(|source| BearerError::Create {
                path: path.clone(),
                source,
            })?;
        }
        let source = io::ErrorKind::NotFound.into();
        Err(BearerError::Create { path, source })
    }

    /// Returns whether this is the bearer. How long it takes does not depend on where they differ: the
    /// comparison is between two digests under a key that no other process has.
    pub(crate) fn matches(&self, presented: &[u8]) -> bool {
        HMAC::verify(presented, self.key.as_slice(), &self.digest)
    }

    /// Returns the proof that this daemon, which listens on this address, has the bearer: an HMAC-SHA256 in
    /// hex. With the address in it, a program on another one cannot pass it on as its own.
    pub(crate) fn proof(&self, address: SocketAddr, nonce: &str) -> String {
        let signed = format!("{PURPOSE}\n{address}\n{nonce}");
        let mac = HMAC::mac(signed.as_bytes(), self.text.as_slice());
        mac.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap_or_default();
            hex
        })
    }
}

fn random() -> io::Result<Zeroizing<[u8; BYTES]>> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    getrandom::fill(bytes.as_mut())?;
    Ok(bytes)
}

/// Returns the content of a new file.
fn new_file() -> io::Result<Zeroizing<Vec<u8>>> {
    let bytes = random()?;
    let mut text = Zeroizing::new(Vec::with_capacity(LENGTH + 1));
    for three in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for at in 0..=three.len() {
            text.push(digit(bits >> (18 - 6 * at) & 63));
        }
    }
    text.push(b'\n');
    Ok(text)
}

/// Returns this digit of base64url (RFC 4648, section 5).
fn digit(value: u32) -> u8 {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    DIGITS[value as usize]
}

fn parse(file: &[u8]) -> Option<Zeroizing<[u8; LENGTH]>> {
    let text = file.trim_ascii();
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !text.iter().all(is_digit) {
        return None;
    }
    text.try_into().ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(text: [u8; LENGTH]) -> Bearer {
        Bearer::new(Zeroizing::new(text), Zeroizing::new([7; BYTES]))
    }

    #[test]
    fn a_new_file_is_a_line_of_base64url_and_random() {
        let file = new_file().unwrap();
        assert_eq!(file.len(), LENGTH + 1);
        assert_eq!(file.last(), Some(&b'\n'));
        assert!(parse(&file).is_some());
        assert_ne!(file, new_file().unwrap());
    }

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
    fn only_the_same_text_matches() {
        let bearer = bearer([b'a'; LENGTH]);
        assert!(bearer.matches(&[b'a'; LENGTH]));
        for wrong in [vec![], vec![b'a'; LENGTH - 1], vec![b'b'; LENGTH]] {
            assert!(!bearer.matches(&wrong));
        }
    }

    #[test]
    fn a_proof_is_the_documented_hmac_and_depends_on_address_and_nonce() {
        let bearer = bearer([b'a'; LENGTH]);
        let proof = |address: &str, nonce| bearer.proof(address.parse().unwrap(), nonce);
        // printf 'reaperd-proof-v1\n127.0.0.1:47823\n00ff' | openssl dgst -sha256 -hmac aaa…
        let expected = "04612b8333d892f230d361aef3dd5ccd87470b3baca8f6c186976fa2246fd0f8";
        assert_eq!(proof("127.0.0.1:47823", "00ff"), expected);
        assert_ne!(proof("[::1]:47823", "00ff"), expected);
        assert_ne!(proof("127.0.0.1:47824", "00ff"), expected);
        assert_ne!(proof("127.0.0.1:47823", "00fe"), expected);
    }
}
