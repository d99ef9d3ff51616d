//! A session: what was registered, shared by everyone who resolved it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lifetime::Ttl;
use crate::presence::{Attestation, Presence, SecretKey};
use crate::process::Process;
use crate::time::{BootTime, Moment};
use crate::token::{Token, TokenDigest, TokenPrefix, TokenRef};

/// One stored registration. Never reused, so that a late removal cannot hit a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// The name under which a session is known to its owner; at most one live entry bears it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// Any text; limits on it are the caller's.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a session says about itself; the registry stores it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The mesh (tenant, project) it belongs to.
    pub mesh: Box<str>,
    /// The name to show.
    pub display_name: Box<str>,
    /// Its working directory.
    pub cwd: Option<Box<str>>,
    /// Its role.
    pub role: Option<Box<str>>,
    /// Its groups.
    pub groups: Box<[Box<str>]>,
    /// The absolute path of the file that holds its token, for programs to find. Not to be shown.
    pub token_file: Option<Box<str>>,
}

/// A registration, parsed and not yet stored.
pub struct NewSession {
    /// The name it takes; a live entry of that name is replaced.
    pub id: SessionId,
    /// The token it will be resolved by.
    pub token: Token,
    /// The process whose life it shares.
    pub process: Process,
    /// The numeric user that registers it.
    pub owner: u32,
    /// What it says about itself.
    pub details: Details,
    /// Its presence material.
    pub presence: Option<Presence>,
    /// How long it asks to stay.
    pub ttl: Ttl,
}

/// A stored session. What a look-up reads comes first and stays there, beside the count of its
/// holders: at a hundred thousand sessions a look-up costs what its cache misses cost.
#[derive(Debug)]
#[repr(C)]
pub struct Session {
    digest: Digest,
    /// The last moment of its life if its process lives as long; `None`: as long as its process lives.
    pub expires_at: Option<Moment>,
    /// When it was stored, or renewed for the last time.
    pub registered_at: Moment,
    /// Which registration this is.
    pub entry: EntryId,
    /// Its name.
    pub id: SessionId,
    /// What may be shown of its token.
    pub token_prefix: TokenPrefix,
    /// Its process.
    pub process: Process,
    /// The user that registered it.
    pub owner: u32,
    /// What it says about itself.
    pub details: Details,
    /// The public half of its presence: the key in hex, and the parent's word for it.
    pub presence: Option<(Box<str>, Attestation)>,
    // Apart from the rest, because the session itself lives on in events and in readers' hands
    // after its removal and the key must not.
    secret_key: Mutex<Option<Arc<SecretKey>>>,
}

impl Session {
    pub(crate) fn store(
        new: NewSession,
        entry: EntryId,
        token: TokenRef,
        now: Moment,
        expires_at: Option<Moment>,
    ) -> Self {
        let NewSession {
            id,
            token: _zeroized,
            process,
            owner,
            details,
            presence,
            ttl: _granted,
        } = new;
        let (presence, secret_key) = presence
            .map(|p| ((p.session_pubkey, p.attestation), p.secret_key))
            .unzip();
        Self {
            entry,
            id,
            token_prefix: token.prefix,
            process,
            owner,
            details,
            presence,
            expires_at,
            registered_at: now,
            secret_key: Mutex::new(secret_key.map(Arc::new)),
            digest: Digest(token.digest),
        }
    }

    /// Lends the secret key for the length of `use_it`; `None` where there is none, the session has
    /// been removed, or it has been renewed since it was resolved. A loan holds up nobody: if the session is removed or renewed meanwhile, the key is wiped
    /// at the end of the loan.
    pub fn with_secret_key<T>(&self, use_it: impl FnOnce(Option<&SecretKey>) -> T) -> T {
        let loan = self.secret_key().clone();
        use_it(loan.as_deref())
    }

    /// Whether it is past its last moment.
    pub(crate) fn has_expired(&self, now: BootTime) -> bool {
        self.expires_at.is_some_and(|last| now > last.boot)
    }

    pub(crate) fn wipe_secret_key(&self) {
        *self.secret_key() = None;
    }

    pub(crate) fn digest(&self) -> &TokenDigest {
        &self.digest.0
    }

    fn secret_key(&self) -> MutexGuard<'_, Option<Arc<SecretKey>>> {
        self.secret_key
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the digest out of the derived `Debug` of a session.
struct Digest(TokenDigest);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}
