//! Presence material: what a session needs to speak in its own name elsewhere. The registry carries
//! it unopened; the public part can be listed, the secret key can only be borrowed.

use std::fmt;

use zeroize::Zeroizing;

use crate::token::decode_hex;

/// A session's signing key. No `Debug` content, no `Clone`, no serialisation; wiped on drop and, by
/// the registry, at the removal of its session.
///
/// ```compile_fail
/// fn printable<T: std::fmt::Display>() {}
/// printable::<reaper_registry::SecretKey>();
/// ```
pub struct SecretKey(Box<Zeroizing<[u8; 64]>>);

impl SecretKey {
    /// Reads 128 hex digits of any case.
    pub fn parse(text: &str) -> Option<Self> {
        // Decoded in place on the heap: a key that moved would leave a copy behind.
        let mut key = Self(Box::new(Zeroizing::new([0; 64])));
        decode_hex(text, &mut **key.0)?;
        Some(key)
    }

    /// The key itself. Every use of it can be found by this name.
    pub fn expose(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}

/// The parent's word for a session key; content unchecked, as the origin has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attestation {
    /// The key that is vouched for.
    pub session_pubkey: Box<str>,
    /// The key that vouches.
    pub parent_member_pubkey: Box<str>,
    /// Milliseconds since 1970; a fraction is what some clients send.
    pub expires_at: f64,
    /// The signature over the others.
    pub signature: Box<str>,
}

/// Public and secret half of a session's presence, as registered.
#[derive(Debug)]
pub struct Presence {
    /// 64 lower-case hex digits.
    pub session_pubkey: Box<str>,
    /// Leaves the session at its removal.
    pub secret_key: SecretKey,
    /// The parent's word.
    pub attestation: Attestation,
}
