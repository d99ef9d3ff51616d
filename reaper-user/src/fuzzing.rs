//! The parsers of bytes from outside, for the oracles in `tests/fuzz`. Not part of the
//! public API.
//!
//! The parsers are in private modules, so that the crate keeps its interface. What takes or returns
//! types of the daemon has a function here, so that an oracle sees what the daemon sees.

use std::sync::LazyLock;

use hyper::http::request;
use reaper_registry::{Details, Pid, Presence, Registry, SessionId, Token, TokenKey, Ttl};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::daemon::api::{Transport, register, sse};
use crate::daemon::http::framing::{self, head};
use crate::daemon::http::secrets::{self, SecretQueue};
use crate::daemon::http::{policy, problem};
use crate::sys::secret_arena::SecretArena;

pub use crate::daemon::http::framing::chunks::{Chunks, Malformed as MalformedChunk};
pub use crate::daemon::http::framing::head::{
    BODY_MAX, BodyFraming, HEAD_MAX, REFUSAL_FIELD, Refusal,
};
pub use crate::daemon::http::query::{decode_segment, pairs, value};
pub use crate::sources::ebpf::btf::blob::Blob as BtfWriter;
pub use crate::sources::ebpf::btf::{BtfError, offsets};
pub use crate::sys::cn_proc;
pub use crate::sys::proc_stat::{Malformed as MalformedStat, stat, wait_status};
pub use crate::sys::process_table::ProcStat;

/// Looks for the end of a head, from `scanned` on; returns its length and its body's framing.
pub fn scan(bytes: &[u8], scanned: &mut usize) -> Result<Option<(usize, BodyFraming)>, Refusal> {
    let Some(length) = framing::end_of_head(bytes, scanned)? else {
        return Ok(None);
    };
    Ok(Some((length, head::check(&bytes[..length])?)))
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
            secrets::Claim::None | secrets::Claim::Malformed | secrets::Claim::Bearer { .. } => {
                None
            }
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
            code: problem.code().name(),
            json: problem.to_json(),
        }
    }
}

/// The request policy.
pub fn check_policy(head: &request::Parts) -> Result<(), Problem> {
    policy::check(head, Transport::Unix, secrets::Claim::None)?;
    Ok(())
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
    pub further: Vec<Pid>,
    pub details: Details,
    pub presence: Option<Presence>,
    pub if_answered: bool,
    pub ignored: Vec<String>,
    pub ttl: Ttl,
}

/// Parses the body of a registration.
pub fn registration(body: &[u8]) -> Result<RegistrationBody, Problem> {
    const OWNER: u32 = 1000;
    static MEMORY: LazyLock<SecretArena> = LazyLock::new(SecretArena::new);
    let register::Parsed {
        registration: parsed,
        if_answered,
        ignored,
    } = register::parse(body, OWNER, &MEMORY)?;
    assert_eq!(parsed.owner, OWNER, "the owner is not read from the body");
    Ok(RegistrationBody {
        id: parsed.id,
        token: parsed.token,
        pid: parsed.pid,
        further: parsed.further,
        details: parsed.details,
        presence: parsed.presence,
        if_answered,
        ignored,
        ttl: parsed.ttl,
    })
}
