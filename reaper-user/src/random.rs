//! Random tokens and keys: the registry crate has no source of randomness.

use std::io;

use reaper_registry::{Token, TokenKey};
use zeroize::Zeroizing;

/// A secret that can be drawn from the random source of the system (`getrandom(2)`).
///
/// ```
/// use reaperd::{Random as _, Token};
///
/// assert_ne!(Token::random()?.reveal(), Token::random()?.reveal());
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Random: Sized {
    /// Draws a new secret. Fails if the system has no random source.
    fn random() -> io::Result<Self>;
}

impl Random for Token {
    fn random() -> io::Result<Self> {
        Ok(Self::from_bytes(*random_bytes::<32>()?))
    }
}

impl Random for TokenKey {
    fn random() -> io::Result<Self> {
        Ok(Self::new(*random_bytes::<16>()?))
    }
}

fn random_bytes<const LENGTH: usize>() -> io::Result<Zeroizing<[u8; LENGTH]>> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    getrandom::fill(bytes.as_mut())?;
    Ok(bytes)
}
