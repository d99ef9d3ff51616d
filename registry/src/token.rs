//! Session tokens: 256 random bits, never stored.
//!
//! The registry keeps a keyed digest. The key is new at each start, so a leaked digest reveals neither
//! the token nor whether a token is the same as before a restart. Look-ups compare digests, so their
//! timing does not reveal how much of a guessed token is right.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};
use zeroize::{Zeroize as _, Zeroizing};

use crate::secret_memory::{self, Secret, SecretMemory};

/// A session's bearer token: 32 bytes on the heap, overwritten with zeros when dropped.
///
/// Moving a token leaves no copy of it, because only the box moves.
///
/// `Debug` does not print it, and there is no `Display`; [`Self::reveal`] returns the text.
///
/// ```compile_fail
/// println!("{}", reaper_registry::Token::from_bytes([1; 32]));
/// ```
pub struct Token(Box<Zeroizing<[u8; 32]>>);

/// The error for a text that is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token must be 64 hex chars")]
pub struct TokenMalformed;

impl Token {
    /// Creates a token. The bytes must come from the system's random source.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let token = Self::copy_of(&bytes);
        bytes.zeroize();
        token
    }

    fn copy_of(bytes: &[u8; 32]) -> Self {
        let mut token = Self::zeros();
        token.0.copy_from_slice(bytes);
        token
    }

    /// Secrets are written into the box: an array that is moved into one leaves a copy on the stack.
    fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; 32])))
    }

    /// Parses exactly 64 hex digits of either case.
    pub fn parse(text: &str) -> Result<Self, TokenMalformed> {
        let mut token = Self::zeros();
        decode_hex(text, &mut **token.0).ok_or(TokenMalformed)?;
        Ok(token)
    }

    /// Returns the token as 64 lower-case hex digits, for its owner only. The text is overwritten with
    /// zeros when dropped.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(encode_hex(&**self.0))
    }

    /// Returns what the registry keeps of the token, and overwrites the token with zeros at once, so that
    /// moving the registration leaves no copies of it.
    pub(crate) fn digest_and_zeroize(&mut self, key: &TokenKey) -> TokenRef {
        let token_ref = self.token_ref(key);
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

impl Clone for Token {
    fn clone(&self) -> Self {
        Self::copy_of(&self.0)
    }
}

/// The first 32 bits of a token, to distinguish sessions on a screen. Not secret: lists and logs show
/// it. `Display` writes eight lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenPrefix([u8; 4]);

impl TokenPrefix {
    /// Creates the prefix with these bytes.
    pub(crate) fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    /// Returns the first four bytes of the token.
    pub fn to_bytes(self) -> [u8; 4] {
        self.0
    }
}

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
pub struct TokenKey(Secret);

impl TokenKey {
    /// Creates a key in ordinary memory. The bytes must come from the system's random source and be new
    /// at each start.
    pub fn new(mut bytes: [u8; 16]) -> Self {
        let written: Result<_, std::convert::Infallible> =
            Self::written_to(secret_memory::ordinary(), |key| {
                key.copy_from_slice(&bytes);
                Ok(())
            });
        bytes.zeroize();
        let Ok(key) = written;
        key
    }

    /// Creates a key in this memory. `write` writes the bytes, as for [`Self::new`]; its error is
    /// returned.
    pub fn written_to<E>(
        memory: Box<dyn SecretMemory>,
        write: impl FnOnce(&mut [u8; 16]) -> Result<(), E>,
    ) -> Result<Self, E> {
        Secret::written(memory, |bytes| write(&mut bytes.as_chunks_mut().0[0])).map(Self)
    }

    /// Takes over a key that is in this memory already, as it was before a restart.
    pub fn adopt(memory: Box<dyn SecretMemory>) -> Self {
        Self(Secret::found_in(memory))
    }

    /// Returns the number of its slot, if its memory has numbers.
    pub fn slot(&self) -> Option<u32> {
        self.0.slot()
    }

    pub(crate) fn digest(&self, token: &Token) -> TokenDigest {
        let mut hasher = SipHasher24::new_with_key(&self.0.bytes().as_chunks().0[0]);
        hasher.write(&**token.0);
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

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

/// What a registry keeps of a token: a keyed digest, and the prefix. Sessions are found by it as by the
/// token itself, so the token can be wiped as soon as it has been read.
///
/// Made by [`Registry::token_ref`](crate::Registry::token_ref), and of use in that registry only.
#[derive(Clone, Copy, Debug)]
pub struct TokenRef {
    pub(crate) digest: TokenDigest,
    pub(crate) prefix: TokenPrefix,
}

impl TokenRef {
    /// Returns the first eight hex digits of the token.
    pub fn prefix(&self) -> TokenPrefix {
        self.prefix
    }
}

/// By what a session is looked up: a [`Token`] or its [`TokenRef`].
pub trait Presented {
    /// Returns what a registry with this key keeps of the token.
    fn token_ref(&self, key: &TokenKey) -> TokenRef;
}

impl Presented for Token {
    fn token_ref(&self, key: &TokenKey) -> TokenRef {
        TokenRef {
            digest: key.digest(self),
            prefix: self.prefix(),
        }
    }
}

impl Presented for TokenRef {
    fn token_ref(&self, _key: &TokenKey) -> TokenRef {
        *self
    }
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
