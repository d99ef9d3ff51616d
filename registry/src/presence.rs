//! Presence material: the keys with which a session identifies itself to other services. The registry
//! stores it unchecked; the public part may be listed, the secret key can only be borrowed.

use std::fmt;

use crate::secret_memory::{self, Secret, SecretMemory};
use crate::token::decode_hex;

/// A session's secret signing key: 64 bytes, overwritten with zeros when dropped.
///
/// The registry drops it when its session is removed or renewed. `Debug` does not print it. The type
/// has neither `Clone` nor `Display`:
///
/// ```compile_fail
/// fn printable<T: std::fmt::Display>() {}
/// printable::<reaper_registry::SecretKey>();
/// ```
pub struct SecretKey(Secret);

impl SecretKey {
    /// Parses exactly 128 hex digits of either case into ordinary memory; returns `None` for any other
    /// text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_into(secret_memory::ordinary(), text)
    }

    /// As [`Self::parse`], into this memory.
    pub fn parse_into(memory: Box<dyn SecretMemory>, text: &str) -> Option<Self> {
        // Decoded in place: moving the array would leave a copy on the stack.
        Secret::written(memory, |key| decode_hex(text, key).ok_or(()))
            .map(Self)
            .ok()
    }

    /// Takes over a key that is in this memory already, as it was before a restart.
    pub fn adopt(memory: Box<dyn SecretMemory>) -> Self {
        Self(Secret::found_in(memory))
    }

    /// Returns the number of its slot, if its memory has numbers.
    pub fn slot(&self) -> Option<u32> {
        self.0.slot()
    }

    /// Returns the secret bytes. The caller must not keep a copy.
    pub fn expose(&self) -> &[u8; 64] {
        self.0.bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}

/// A parent's signed statement about a session key. The registry verifies none of it, as the claudemesh
/// daemon does not either.
#[derive(Clone, Debug, PartialEq)]
pub struct Attestation {
    /// The session's public key, which the statement is about.
    pub session_pubkey: Box<str>,
    /// The public key of the member that signed.
    pub parent_member_pubkey: Box<str>,
    /// When the statement expires: milliseconds since 1970, with a fraction if the client sent one.
    pub expires_at: f64,
    /// The signature over the other fields.
    pub signature: Box<str>,
}

/// The presence material of a registration.
#[derive(Debug)]
pub struct Presence {
    /// The session's public key: 64 lower-case hex digits. The registry does not check the form.
    pub session_pubkey: Box<str>,
    /// The session's secret key.
    pub secret_key: SecretKey,
    /// The parent's statement about `session_pubkey`.
    pub attestation: Attestation,
}
