//! Takes the secrets out of requests, so that hyper never has them: it keeps the buffers of a
//! connection, and they would stay in there.
//!
//! The framing filter sees each request first. A session's token in its head is replaced by its
//! digest at once, and its characters by asterisks of the same number. The bytes of a body are
//! replaced by blanks and kept here, in a buffer that is wiped when the request has been handled. So
//! the length and the framing of what hyper reads are those that were sent.
//!
//! Hyper handles the requests of a connection in order, so their secrets wait in a queue.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use reaper_registry::{Registry, Token, TokenRef};
use zeroize::Zeroizing;

use super::framing::BODY_MAX;
use super::query;
use crate::daemon::tcp::Bearer;

/// The authentication scheme that presents a session, in any case.
const SESSION_SCHEME: &str = "claudemesh-session";
/// What precedes a bearer, in this case only.
const BEARER_SCHEME: &str = "Bearer ";
/// The digits of a token.
const TOKEN_DIGITS: usize = 64;
/// The digits of a token that are not secret.
const PUBLIC_DIGITS: usize = 8;
/// The paths that name a session by its token, and below them those that name it by its id, which may
/// look like a token.
const BY_TOKEN: &[u8] = b"/v1/sessions/";
const BY_ID: &[u8] = b"/v1/sessions/by-id/";
/// The first size of a body's buffer: more than most registrations have.
const BODY_START: usize = 1_024;

/// The session that a request presents. Whether it is live is checked by the route.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Claim {
    #[default]
    None,
    /// A session was presented with a malformed token.
    Malformed,
    Token(TokenRef),
    /// Over TCP, where sessions are not presented.
    Bearer {
        is_valid: bool,
    },
}

/// The secrets of one request.
#[derive(Default)]
pub(crate) struct RequestSecrets {
    /// Of the first `Authorization` field.
    pub(crate) claim: Claim,
    /// The token that is the last segment of the path, behind `/v1/sessions/`.
    pub(crate) path_token: Option<TokenRef>,
    body: Arc<Mutex<Zeroizing<Vec<u8>>>>,
}

impl RequestSecrets {
    /// Returns the body so far. What arrives later is not kept.
    pub(crate) fn take_body(&self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut *lock(&self.body))
    }
}

/// The secrets of the requests of one connection that hyper has not handled yet.
#[derive(Clone)]
pub(crate) struct SecretQueue(Arc<Queue>);

struct Queue {
    registry: Registry,
    /// Over TCP.
    bearer: Option<Arc<Bearer>>,
    waiting: Mutex<VecDeque<RequestSecrets>>,
}

impl SecretQueue {
    /// Creates an empty queue. Tokens are replaced by their digests in this registry.
    pub(crate) fn new(registry: Registry) -> Self {
        Self::with_bearer(registry, None)
    }

    /// The same, for a connection on which this bearer counts, and not sessions.
    pub(crate) fn with_bearer(registry: Registry, bearer: Option<Arc<Bearer>>) -> Self {
        Self(Arc::new(Queue {
            registry,
            bearer,
            waiting: Mutex::default(),
        }))
    }

    /// Creates the queue of a connection to no daemon.
    #[cfg(test)]
    pub(in crate::daemon) fn for_tests() -> Self {
        Self::new(Registry::builder(reaper_registry::TokenKey::new([7; 16])).build())
    }

    /// Returns the secrets of the next request. Must be called once for each request, in order.
    pub(crate) fn next(&self) -> RequestSecrets {
        // A head that was refused has none.
        lock(&self.0.waiting).pop_front().unwrap_or_default()
    }

    /// Takes the secrets out of a head, which may be malformed. Returns them, and where to keep the
    /// body behind it.
    pub(super) fn take_from(&self, head: &mut [u8]) -> (RequestSecrets, BodyKeeper) {
        let mut secrets = RequestSecrets::default();
        let mut lines = head.split_mut(|byte| *byte == b'\n');
        if let Some(line) = lines.next() {
            secrets.path_token = self.take_from_target(target_of(line));
        }
        let mut claim = None;
        for line in lines {
            let Some(value) = authorization(line) else {
                continue;
            };
            claim.get_or_insert_with(|| self.claim(value));
            blank(value);
        }
        secrets.claim = claim.unwrap_or_default();
        let keeper = BodyKeeper(Arc::downgrade(&secrets.body));
        (secrets, keeper)
    }

    /// Adds the secrets of a request that hyper will read next.
    pub(super) fn push(&self, secrets: RequestSecrets) {
        lock(&self.0.waiting).push_back(secrets);
    }

    fn claim(&self, value: &[u8]) -> Claim {
        if let Some(bearer) = &self.0.bearer {
            let presented = value.trim_ascii().strip_prefix(BEARER_SCHEME.as_bytes());
            return presented.map_or(Claim::None, |presented| Claim::Bearer {
                is_valid: bearer.matches(presented.trim_ascii()),
            });
        }
        let mut parts = value.trim_ascii().splitn(2, |byte| *byte == b' ');
        let scheme = parts.next().unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(SESSION_SCHEME.as_bytes()) {
            return Claim::None;
        }
        let token = parts.next().unwrap_or_default().trim_ascii();
        self.digest(token).map_or(Claim::Malformed, Claim::Token)
    }

    fn digest(&self, hex: &[u8]) -> Option<TokenRef> {
        let token = Token::parse(str::from_utf8(hex).ok()?).ok()?;
        Some(self.0.registry.token_ref(&token))
    }

    fn take_from_target(&self, target: &mut [u8]) -> Option<TokenRef> {
        let (path, query) = path_and_query(target);
        if !query.is_empty() {
            blank_tokens_in_query(&mut target[query]);
        }
        let path = &mut target[path];
        if path.starts_with(BY_ID) {
            return None;
        }
        let token = path
            .strip_prefix(BY_TOKEN)
            .and_then(|tail| self.digest(tail));
        for digits in path.chunk_by_mut(|a, b| a.is_ascii_hexdigit() == b.is_ascii_hexdigit()) {
            if digits.len() >= TOKEN_DIGITS && digits[0].is_ascii_hexdigit() {
                blank(&mut digits[PUBLIC_DIGITS..]);
            }
        }
        token
    }
}

/// Where the filter keeps a body, as long as its request is being handled.
#[derive(Default)]
pub(super) struct BodyKeeper(Weak<Mutex<Zeroizing<Vec<u8>>>>);

impl BodyKeeper {
    /// Moves these bytes of the body here and leaves blanks. What exceeds the largest body is dropped.
    pub(super) fn take(&self, bytes: &mut [u8]) {
        if let Some(body) = self.0.upgrade() {
            append(&mut lock(&body), bytes);
        }
        bytes.fill(b' ');
    }
}

/// Grows the buffer without leaving a copy behind.
fn append(body: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    let max = usize::try_from(BODY_MAX).unwrap_or(usize::MAX);
    let bytes = &bytes[..bytes.len().min(max - body.len())];
    let needed = body.len() + bytes.len();
    if needed > body.capacity() {
        let capacity = needed.next_power_of_two().clamp(BODY_START, max);
        let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(bytes);
}

/// Returns the target of a request line: everything between its first and its last blank.
fn target_of(line: &mut [u8]) -> &mut [u8] {
    let is_blank = |byte: &u8| *byte == b' ';
    let first = line.iter().position(is_blank);
    let last = line.iter().rposition(is_blank);
    match (first, last) {
        (Some(first), Some(last)) if first < last => &mut line[first + 1..last],
        _ => &mut [],
    }
}

/// Returns where path and query are in a target, which may have scheme and host.
fn path_and_query(target: &[u8]) -> (Range<usize>, Range<usize>) {
    let find = |from: usize, byte: u8| {
        let found = target[from..].iter().position(|other| *other == byte);
        found.map_or(target.len(), |at| from + at)
    };
    let end = find(0, b'#');
    let path_end = find(0, b'?').min(end);
    let scheme = target[..path_end]
        .windows(3)
        .position(|three| three == b"://");
    let start = match scheme {
        Some(at) if !target.starts_with(b"/") => find(at + 3, b'/').min(path_end),
        _ => 0,
    };
    (start..path_end, (path_end + 1).min(end)..end)
}

/// Blanks the values of the key `token`. Such a request is refused, and its token is a secret still. What
/// cannot be part of a token stays, so that a target with a space is still refused, and one with a fragment
/// ends where it did.
fn blank_tokens_in_query(query: &mut [u8]) {
    for pair in query.split_mut(|byte| *byte == b'&') {
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (key, value) = pair.split_at_mut(equals);
        // Only the key is decoded, because decoding may copy.
        let key = str::from_utf8(key).unwrap_or_default();
        if query::pairs(key).any(|(key, _)| key == "token") {
            for byte in value.iter_mut().filter(|byte| byte.is_ascii_alphanumeric()) {
                *byte = b'*';
            }
        }
    }
}

/// Returns the value of a line of a head, without its end, if it is an `Authorization` field.
fn authorization(line: &mut [u8]) -> Option<&mut [u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_mut(colon);
    let length = value.len() - usize::from(value.ends_with(b"\r"));
    name.eq_ignore_ascii_case(b"authorization")
        .then(|| &mut value[1..length])
}

/// Overwrites text. Control bytes stay, so that a head with one is still refused.
fn blank(text: &mut [u8]) {
    for byte in text.iter_mut().filter(|byte| !byte.is_ascii_control()) {
        *byte = b'*';
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
