//! The parsers of bytes from outside, for the oracles in `tests/fuzz`. Not part of the
//! public API.
//!
//! The parsers are private. Each function here calls one of them, and the types here wrap what it
//! returns, so that an oracle sees what the daemon sees and the crate keeps its interface.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use hyper::http::request;
use reaper_registry::{Details, Pid, Presence, Registry, SessionId, Token, TokenKey, Ttl};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::daemon::api::{Transport, register, sse};
use crate::daemon::http::framing::{self, chunks, head};
use crate::daemon::http::secrets::{self, SecretQueue};
use crate::daemon::http::{policy, problem, query};
use crate::sources::ebpf::btf::blob;
use crate::sys::secret_arena::SecretArena;
use crate::sys::{cn_proc, proc_stat};

pub use crate::sources::ebpf::btf::{BtfError, Offsets, offsets};
pub use crate::sys::cn_proc::{Event, Exit};
pub use crate::sys::process_table::ProcStat;

pub const HEAD_MAX: usize = head::HEAD_MAX;
pub const BODY_MAX: u64 = head::BODY_MAX;
pub const REFUSAL_FIELD: &str = head::REFUSAL_FIELD;

/// How the body behind a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    Length(u64),
    Chunked,
}

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(head::Refusal);

impl Refusal {
    pub const HEAD_TOO_LARGE: Self = Self(head::Refusal::HeadTooLarge);

    pub fn code(self) -> &'static str {
        self.0.code()
    }

    pub fn from_code(code: &[u8]) -> Option<Self> {
        head::Refusal::from_code(code).map(Self)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Looks for the end of a head, from `scanned` on; returns its length and its body's framing.
pub fn scan(bytes: &[u8], scanned: &mut usize) -> Result<Option<(usize, BodyFraming)>, Refusal> {
    let Some(length) = framing::end_of_head(bytes, scanned).map_err(Refusal)? else {
        return Ok(None);
    };
    let framing = match head::check(&bytes[..length]).map_err(Refusal)? {
        head::BodyFraming::Length(body) => BodyFraming::Length(body),
        head::BodyFraming::Chunked => BodyFraming::Chunked,
    };
    Ok(Some((length, framing)))
}

/// The bytes are not a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedChunk;

/// A position within a chunked body.
#[derive(Clone, Copy, Debug)]
pub struct Chunks(chunks::Chunks);

impl Chunks {
    #[expect(clippy::new_without_default, reason = "as the type that it wraps")]
    pub fn new() -> Self {
        Self(chunks::Chunks::new())
    }

    pub fn is_too_large(&self) -> bool {
        self.0.is_too_large()
    }

    /// Returns how many of the bytes belong to this body, and whether it is complete.
    pub fn walk(&mut self, bytes: &[u8]) -> Result<(usize, bool), MalformedChunk> {
        self.0
            .walk(&mut bytes.to_vec(), |_data| {})
            .map_err(|chunks::Malformed| MalformedChunk)
    }
}

/// A connection as hyper reads it, behind the framing filter, and the secrets that hyper does not see.
pub fn filtered<S>(connection: S) -> (impl AsyncRead + AsyncWrite + Unpin, Secrets)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let queue = SecretQueue::new(Registry::builder(TokenKey::new([7; 16])).build());
    let filter = framing::FramingFilter::new(connection, queue.clone());
    (filter, Secrets(queue))
}

/// The secrets of the requests of one connection.
pub struct Secrets(SecretQueue);

impl Secrets {
    /// The secrets of the next request.
    pub fn next(&self) -> RequestSecrets {
        RequestSecrets(self.0.next())
    }
}

/// The secrets of one request.
pub struct RequestSecrets(secrets::RequestSecrets);

impl RequestSecrets {
    /// The prefix of the presented token.
    pub fn token_prefix(&self) -> Option<String> {
        match self.0.claim {
            secrets::Claim::Token(token) => Some(token.prefix().to_string()),
            secrets::Claim::None | secrets::Claim::Malformed => None,
        }
    }

    pub fn body(&self) -> Vec<u8> {
        self.0.take_body().to_vec()
    }
}

/// An error response.
#[derive(Debug)]
pub struct Problem {
    pub status: u16,
    pub code: &'static str,
    pub json: Vec<u8>,
}

impl From<problem::Problem> for Problem {
    fn from(problem: problem::Problem) -> Self {
        Self {
            status: problem.status().as_u16(),
            code: problem.code(),
            json: problem.to_json(),
        }
    }
}

/// The request policy.
pub fn check_policy(head: &request::Parts) -> Result<(), Problem> {
    policy::check(head, Transport::Unix, secrets::Claim::None)?;
    Ok(())
}

/// The pairs of a query string.
pub fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query::pairs(query)
}

/// The value of the first pair with this key.
pub fn value<'a>(query: Option<&'a str>, key: &str) -> Option<Cow<'a, str>> {
    query::value(query, key)
}

pub fn decode_segment(segment: &str) -> Option<Cow<'_, str>> {
    query::decode_segment(segment)
}

/// Parses an event id; returns it as it is written.
pub fn event_id(text: &str) -> Option<String> {
    sse::EventId::parse(text).map(|id| id.to_string())
}

/// The content of a registration's body.
#[derive(Debug)]
pub struct RegistrationBody {
    pub id: SessionId,
    pub token: Token,
    pub pid: Pid,
    pub details: Details,
    pub presence: Option<Presence>,
    pub if_answered: bool,
    pub ttl: Ttl,
}

/// Parses the body of a registration.
pub fn registration(body: &[u8]) -> Result<RegistrationBody, Problem> {
    const OWNER: u32 = 1000;
    static MEMORY: LazyLock<SecretArena> = LazyLock::new(SecretArena::new);
    let (parsed, if_answered) = register::parse(body, OWNER, &MEMORY)?;
    assert_eq!(parsed.owner, OWNER, "the owner is not read from the body");
    Ok(RegistrationBody {
        id: parsed.id,
        token: parsed.token,
        pid: parsed.pid,
        details: parsed.details,
        presence: parsed.presence,
        if_answered,
        ttl: parsed.ttl,
    })
}

pub const WHAT_AT: usize = cn_proc::WHAT_AT as usize;
pub const EXIT_TGID_AT: usize = cn_proc::EXIT_TGID_AT as usize;
pub const WHAT_ACK: u32 = cn_proc::WHAT_ACK;
pub const WHAT_EXIT: u32 = cn_proc::WHAT_EXIT;

/// Why a message was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedMessage(cn_proc::Malformed);

impl MalformedMessage {
    /// The message's own length does not fit the datagram, so that no further one is found.
    pub const LENGTH: Self = Self(cn_proc::Malformed::Length);

    /// It is framed as a message of the connector.
    pub fn is_framed(self) -> bool {
        self.0 == cn_proc::Malformed::Truncated
    }
}

impl fmt::Display for MalformedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The messages of one datagram, in order.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Event, MalformedMessage>> {
    cn_proc::decode(datagram).map(|message| message.map_err(MalformedMessage))
}

/// A datagram of each request that is sent to the connector.
pub fn connector_requests(mask: u32, ack: u32) -> [Vec<u8>; 3] {
    [
        cn_proc::Request::Listen,
        cn_proc::Request::ListenTo(mask),
        cn_proc::Request::Ignore,
    ]
    .map(|request| request.encode(ack))
}

/// Parses a line of `/proc/PID/stat`.
pub fn stat(line: &[u8]) -> Option<ProcStat> {
    proc_stat::stat(line).ok()
}

/// The wait status in a line of `/proc/PID/stat`.
pub fn wait_status(line: &[u8]) -> Option<u32> {
    proc_stat::wait_status(line).ok()
}

/// Writes BTF. It checks nothing, so that inconsistent blobs can be written too.
#[derive(Default)]
pub struct BtfWriter(blob::Blob);

impl BtfWriter {
    pub fn new() -> Self {
        Self(blob::Blob::new())
    }

    /// Adds a type without members; returns its number.
    pub fn simple(&mut self, kind: u32, size_or_type: u32, trailer: &[u32]) -> u32 {
        self.0.simple(kind, size_or_type, trailer)
    }

    /// Adds a structure or union; its members are name, type and offset as the format has it.
    pub fn composite(
        &mut self,
        kind: u32,
        name: &str,
        has_bit_fields: bool,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        self.0.composite(kind, name, has_bit_fields, members)
    }

    pub fn finish(&self) -> Vec<u8> {
        self.0.finish()
    }
}
