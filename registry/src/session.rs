//! Sessions: what a registration consists of, and what the registry shares of it.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::SavedSession;
use crate::labels::Labels;
use crate::lifetime::Ttl;
use crate::members::{MemberEnd, Members};
use crate::presence::{Attestation, Presence, SecretKey};
use crate::process::{Process, ProcessId};
use crate::time::{BootTime, Moment};
use crate::token::{Token, TokenDigest, TokenPrefix, TokenRef};

/// The id of one stored session. It is never reused, so a late removal cannot affect the session that
/// replaced it. A renewal keeps it. Entry ids are assigned in ascending order, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id that a client chose for its session. At most one session of an owner has it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// Creates an id from any text. The registry does not limit or check it.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A session id and the owner of the session. At most one live session has both.
pub(crate) type SessionKey = (SessionId, u32);

impl From<&str> for SessionId {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl AsRef<str> for SessionId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The descriptive part of a registration. The registry stores it unchecked and does not interpret it.
///
/// `Debug` does not print `token_file`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// The mesh (tenant, project) it belongs to.
    pub mesh: Box<str>,
    /// The name to display.
    pub display_name: Box<str>,
    /// Its working directory.
    pub cwd: Option<Box<str>>,
    /// Its role.
    pub role: Option<Box<str>>,
    /// Its groups.
    pub groups: Box<[Box<str>]>,
    /// Its labels.
    pub labels: Labels,
    /// The absolute path of the file that contains its token, so that it can be removed with the session.
    /// Must not be listed.
    pub token_file: Option<Box<str>>,
}

impl Details {
    /// Returns whether readers that select sessions by mesh and labels see these as the others. If not, a
    /// renewal would take the session away from some of them without an event.
    pub(crate) fn is_selected_as(&self, other: &Self) -> bool {
        self.mesh == other.mesh && self.labels == other.labels
    }
}

impl fmt::Debug for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mesh,
            display_name,
            cwd,
            role,
            groups,
            labels,
            token_file: _not_listed,
        } = self;
        f.debug_struct("Details")
            .field("mesh", mesh)
            .field("display_name", display_name)
            .field("cwd", cwd)
            .field("role", role)
            .field("groups", groups)
            .field("labels", labels)
            .finish_non_exhaustive()
    }
}

/// A registration request: the input of [`Registry::register`](crate::Registry::register).
///
/// `Debug` prints neither the token nor the secret key.
#[derive(Debug)]
pub struct NewSession {
    /// The session id. A live session of the same owner with this id is replaced or renewed.
    pub id: SessionId,
    /// The token that resolves to the session. Overwritten with zeros when the session is stored.
    pub token: Token,
    /// The process; the session is to be removed when it ends.
    pub process: Process,
    /// Further processes: the session is to be removed when the last of all ends.
    pub further: Vec<Process>,
    /// The numeric id of the user that registers the session.
    pub owner: u32,
    /// The descriptive part.
    pub details: Details,
    /// The presence material, if the client sent any.
    pub presence: Option<Presence>,
    /// The requested lifetime.
    pub ttl: Ttl,
}

/// A stored session.
///
/// Immutable, except that the start time of its process may become known and that its secret key is
/// dropped when the session is removed or renewed. A renewal stores a new `Session` value with the same
/// [`EntryId`], and so does the end of one of several processes. A value remains valid after its removal, as
/// long as it is referenced.
// The fields that a look-up reads come first, in the cache line of the reference count: at 100,000
// sessions the cost of a look-up is that of its cache misses.
#[derive(Debug)]
#[repr(C)]
pub struct Session {
    digest: TokenDigest,
    /// The last moment at which the session is live; `None`: it stays until its process ends.
    pub expires_at: Option<Moment>,
    /// When it was stored, or last renewed.
    pub registered_at: Moment,
    /// When it was first stored. A renewal keeps it.
    pub started_at: Moment,
    /// The registry's id of this session.
    pub entry: EntryId,
    /// The client's id of this session.
    pub id: SessionId,
    /// The start of its token, which may be listed and logged.
    pub token_prefix: TokenPrefix,
    /// Its process, or the first of several ([`Self::members`]). If all have ended, the caller should remove
    /// the session.
    pub process: Process,
    pub(crate) members: Option<Members>,
    /// The numeric id of the user that registered it.
    pub owner: u32,
    /// Its descriptive part.
    pub details: Details,
    /// The public part of its presence material: the public key in hex, and the parent's attestation.
    pub presence: Option<(Box<str>, Attestation)>,
    /// What it counts towards the limits: [`NewSession::bytes`] of its registration.
    pub bytes: usize,
    // Separate from `presence`, because events and readers keep the session after its removal, but the
    // key must be dropped.
    secret_key: Mutex<Option<Arc<SecretKey>>>,
    /// Where the secret key is, if its memory outlives the process.
    secret_slot: Option<u32>,
    journal_mark: AtomicU64,
}

impl Session {
    /// Builds a session again as it was saved.
    pub fn restore(saved: SavedSession) -> Arc<Self> {
        let SavedSession {
            digest,
            token_prefix,
            expires_at,
            registered_at,
            started_at,
            entry,
            id,
            process,
            members,
            owner,
            details,
            presence,
            bytes,
            secret_key,
        } = saved;
        Arc::new(Self {
            digest: TokenDigest(u128::from_le_bytes(digest)),
            expires_at,
            registered_at,
            started_at,
            entry,
            id,
            token_prefix: TokenPrefix::from_bytes(token_prefix),
            process,
            members: Members::restore(members),
            owner,
            details,
            presence,
            bytes,
            secret_slot: secret_key.as_ref().and_then(SecretKey::slot),
            secret_key: Mutex::new(secret_key.map(Arc::new)),
            journal_mark: AtomicU64::new(0),
        })
    }

    pub(crate) fn store(
        new: NewSession,
        entry: EntryId,
        token: TokenRef,
        (started_at, now): (Moment, Moment),
        expires_at: Option<Moment>,
    ) -> Self {
        let bytes = new.bytes();
        let NewSession {
            id,
            token: _zeroized,
            process,
            further,
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
            members: Members::new(&process, further),
            process,
            owner,
            details,
            presence,
            bytes,
            expires_at,
            registered_at: now,
            started_at,
            secret_slot: secret_key.as_ref().and_then(SecretKey::slot),
            secret_key: Mutex::new(secret_key.map(Arc::new)),
            journal_mark: AtomicU64::new(0),
            digest: token.digest,
        }
    }

    /// Returns the same session with the end of one of its processes. It has the secret key of this one, which
    /// loses it as by a renewal.
    pub(crate) fn with_end(&self, process: ProcessId, end: MemberEnd) -> Self {
        Self {
            digest: self.digest,
            expires_at: self.expires_at,
            registered_at: self.registered_at,
            started_at: self.started_at,
            entry: self.entry,
            id: self.id.clone(),
            token_prefix: self.token_prefix,
            process: self.process.clone(),
            members: self.members.as_ref().map(|all| all.with_end(process, end)),
            owner: self.owner,
            details: self.details.clone(),
            presence: self.presence.clone(),
            bytes: self.bytes,
            secret_key: Mutex::new(self.secret_key().clone()),
            secret_slot: self.secret_slot,
            journal_mark: AtomicU64::new(0),
        }
    }

    /// Calls `use_it` with the secret key, and returns its result.
    ///
    /// The argument is `None` if the registration had no key, or if since it was resolved the session has
    /// been removed or renewed, or one of several processes has ended. No lock is held during the call, so it may take long. If the
    /// session is removed or renewed meanwhile, the key is overwritten with zeros after the call.
    pub fn with_secret_key<T>(&self, use_it: impl FnOnce(Option<&SecretKey>) -> T) -> T {
        let key = self.secret_key().clone();
        use_it(key.as_deref())
    }

    /// Returns its labels.
    pub fn labels(&self) -> &Labels {
        &self.details.labels
    }

    /// Returns the keyed digest of its token, for a [`Journal`](crate::Journal). It does not reveal the
    /// token, but must not be shown.
    pub fn digest_bytes(&self) -> [u8; 16] {
        self.digest.0.to_le_bytes()
    }

    /// Returns the number of the slot in which the secret key is or was, if there is one and its memory has
    /// numbers ([`SecretMemory::slot`](crate::SecretMemory::slot)).
    pub fn secret_slot(&self) -> Option<u32> {
        self.secret_slot
    }

    /// A number that a [`Journal`](crate::Journal) may keep with this value; 0 at first.
    pub fn journal_mark(&self) -> &AtomicU64 {
        &self.journal_mark
    }

    /// Returns whether `now` is past its last moment.
    pub(crate) fn has_expired(&self, now: BootTime) -> bool {
        self.expires_at.is_some_and(|last| now > last.boot)
    }

    pub(crate) fn wipe_secret_key(&self) {
        let key = self.secret_key().take();
        // Not under the lock of the key: its memory may have a lock of its own.
        drop(key);
    }

    /// Returns its id together with its owner, whose sessions have distinct ids.
    pub(crate) fn key(&self) -> SessionKey {
        (self.id.clone(), self.owner)
    }

    pub(crate) fn digest(&self) -> &TokenDigest {
        &self.digest
    }

    fn secret_key(&self) -> MutexGuard<'_, Option<Arc<SecretKey>>> {
        self.secret_key
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
