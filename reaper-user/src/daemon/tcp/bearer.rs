//! The bearer: a secret in a file beside the socket, which a client that can read the file presents over TCP.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use hmac_sha256::HMAC;
use zeroize::Zeroizing;

use crate::bearer::{self, FILE_NAME, LENGTH, Text, parse};
use crate::daemon::api::listener::Folder;
use crate::daemon::own_files::{self, NotOwnFile};

/// The random bytes of a new bearer.
const BYTES: usize = 32;
/// How often another program may create the file at the same moment.
const TRIES: usize = 4;

/// The secret of one daemon.
pub(crate) struct Bearer {
    /// As in the file, without the line end.
    text: Text,
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
    fn new(text: Text, key: Zeroizing<[u8; BYTES]>) -> Self {
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

    /// Returns the [proof](bearer::proof) that this daemon, which listens on this address, has the bearer.
    pub(crate) fn proof(&self, address: SocketAddr, nonce: &str) -> String {
        bearer::proof(&self.text, address, nonce)
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
    fn only_the_same_text_matches() {
        let bearer = bearer([b'a'; LENGTH]);
        assert!(bearer.matches(&[b'a'; LENGTH]));
        for wrong in [vec![], vec![b'a'; LENGTH - 1], vec![b'b'; LENGTH]] {
            assert!(!bearer.matches(&wrong));
        }
    }
}
