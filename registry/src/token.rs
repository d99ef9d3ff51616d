//! Session tokens: 256 random bits, never stored.
//!
//! The registry keeps a keyed digest. The key is new at each start, so a leaked digest reveals neither
//! the token nor whether a token is the same as before a restart. Look-ups compare digests, so their
//! timing does not reveal how much of a guessed token is right.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};
use zeroize::{Zeroize as _, Zeroizing};

/// A session's bearer token: 32 bytes, overwritten with zeros when dropped.
///
/// `Debug` does not print it, and there is no `Display`; [`Self::reveal`] returns the text.
///
/// ```compile_fail
/// println!("{}", reaper_registry::Token::from_bytes([1; 32]));
/// ```
#[derive(Clone)]
pub struct Token([u8; 32]);

/// The error for a text that is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token must be 64 hex chars")]
pub struct TokenMalformed;

impl Token {
    /// Creates a token. The bytes must come from the system's random source.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses exactly 64 hex digits of either case.
    pub fn parse(text: &str) -> Result<Self, TokenMalformed> {
        let mut token = Self([0; 32]);
        decode_hex(text, &mut token.0).ok_or(TokenMalformed)?;
        Ok(token)
    }

    /// Returns the token as 64 lower-case hex digits, for its owner only. The text is overwritten with
    /// zeros when dropped.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(encode_hex(&self.0))
    }

    /// Returns what the registry keeps of the token, and overwrites the token with zeros at once, so that
    /// moving the registration leaves no copies of it.
    pub(crate) fn digest_and_zeroize(&mut self, key: &TokenKey) -> TokenRef {
        let token_ref = TokenRef {
            digest: key.digest(self),
            prefix: self.prefix(),
        };
        self.0.zeroize();
        token_ref
    }

    /// Returns the first eight hex digits, which may be listed and logged.
    pub fn prefix(&self) -> TokenPrefix {
        TokenPrefix([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The first 32 bits of a token, to distinguish sessions on a screen. Not secret: lists and logs show
/// it. `Display` writes eight lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenPrefix([u8; 4]);

impl fmt::Display for TokenPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_hex(&self.0))
    }
}

impl fmt::Debug for TokenPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}…")
    }
}

/// The secret key of the token digests: 16 bytes, overwritten with zeros when dropped. `Debug` does not
/// print it.
pub struct TokenKey(Zeroizing<[u8; 16]>);

impl TokenKey {
    /// Creates a key. The bytes must come from the system's random source and be new at each start.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn digest(&self, token: &Token) -> TokenDigest {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&token.0);
        TokenDigest(hasher.finish128().as_u128())
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(hidden)")
    }
}

/// The keyed digest of a token; the key of the registry's indexes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenDigest(pub(crate) u128);

/// The digest and the prefix of a token, which a session keeps.
#[derive(Clone, Copy)]
pub(crate) struct TokenRef {
    pub(crate) digest: TokenDigest,
    pub(crate) prefix: TokenPrefix,
}

/// Decodes exactly `2 * bytes.len()` hex digits of either case into `bytes`.
pub(crate) fn decode_hex(text: &str, bytes: &mut [u8]) -> Option<()> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != bytes.len() {
        return None;
    }
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = hex_digit(high)? << 4 | hex_digit(low)?;
    }
    Some(())
}

pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).expect("a nibble is below 16");
    // One exact allocation: growing the string would leave copies of a secret in freed memory.
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 0xf));
    }
    text
}

fn hex_digit(digit: u8) -> Option<u8> {
    // A digit is below 16, so the narrowing keeps it.
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}
