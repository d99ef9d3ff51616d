//! Session tokens: 256 bits that are shown once, to their owner, and never stored.
//!
//! What the registry keeps is a keyed digest. The key lives for one boot of the daemon, so a digest
//! that leaked says nothing about the token and nothing across restarts; and since lookups compare
//! digests, their timing says nothing either.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};
use zeroize::{Zeroize as _, Zeroizing};

/// A session's bearer token. It has neither `Debug` nor `Display` and is wiped on drop.
///
/// ```compile_fail
/// println!("{:?}", reaper_registry::Token::from_bytes([1; 32]));
/// ```
#[derive(Clone)]
pub struct Token([u8; 32]);

/// The text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token must be 64 hex chars")]
pub struct TokenMalformed;

impl Token {
    /// A token of these 32 bytes, which the caller drew from the system's random source.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hex digits of any case.
    pub fn parse(text: &str) -> Result<Self, TokenMalformed> {
        let mut token = Self([0; 32]);
        decode_hex(text, &mut token.0).ok_or(TokenMalformed)?;
        Ok(token)
    }

    /// The 64 hex digits, for the one who may know them.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(encode_hex(&self.0))
    }

    /// What the registry keeps of it. Wipes the token at once, so that the moves of a registration
    /// into its place leave no copies behind.
    pub(crate) fn digest_and_zeroize(&mut self, key: &TokenKey) -> TokenRef {
        let token_ref = TokenRef {
            digest: key.digest(self),
            prefix: self.prefix(),
        };
        self.0.zeroize();
        token_ref
    }

    /// The first eight hex digits: what lists may show.
    pub fn prefix(&self) -> TokenPrefix {
        TokenPrefix([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The first 32 bits of a token: enough to tell sessions apart on a screen.
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

/// The secret under which tokens are digested; 128 random bits drawn at start.
pub struct TokenKey(Zeroizing<[u8; 16]>);

impl TokenKey {
    /// A key of these bytes, which the caller drew from the system's random source.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn digest(&self, token: &Token) -> TokenDigest {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&token.0);
        TokenDigest(hasher.finish128().as_u128())
    }
}

/// What stands for a token inside the registry.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenDigest(pub(crate) u128);

/// What a session keeps of its token.
#[derive(Clone, Copy)]
pub(crate) struct TokenRef {
    pub(crate) digest: TokenDigest,
    pub(crate) prefix: TokenPrefix,
}

/// Fills `bytes` from exactly twice as many hex digits.
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
    // One exact allocation: a growing string would leave copies of a secret behind.
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
