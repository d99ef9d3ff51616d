//! The parsers of bytes from outside, for the oracles in `tests/fuzz`. Not part of the
//! public API.
//!
//! The parsers are in private modules, so that the crate keeps its interface. What takes or returns
//! types of the daemon has a function here, so that an oracle sees what the daemon sees.

use hyper::http::request;
use reaper_registry::{Details, Pid, Presence, SessionId, Token, Ttl};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::daemon::api::{Transport, register, sse};
use crate::daemon::http::{framing, policy, problem};

pub use crate::daemon::http::framing::chunks::{Chunks, Malformed as MalformedChunk};
pub use crate::daemon::http::framing::head::{
    BODY_MAX, BodyFraming, HEAD_MAX, REFUSAL_FIELD, Refusal,
};
pub use crate::daemon::http::framing::scan;
pub use crate::daemon::http::query::{decode_segment, pairs, value};
pub use crate::sources::ebpf::btf::blob::Blob as BtfWriter;
pub use crate::sources::ebpf::btf::{BtfError, offsets};
pub use crate::sys::cn_proc;
pub use crate::sys::proc_stat::{Malformed as MalformedStat, stat, wait_status};
pub use crate::sys::process_table::ProcStat;

/// A connection as hyper reads it: behind the framing filter.
pub fn filtered<S>(connection: S) -> impl AsyncRead + AsyncWrite + Unpin
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    framing::FramingFilter::new(connection)
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

/// The request policy; returns the token that the request presents.
pub fn check_policy(head: &request::Parts) -> Result<Option<Token>, Problem> {
    match policy::check(head, Transport::Unix)? {
        policy::Claim::Token(token) => Ok(Some(token)),
        policy::Claim::None | policy::Claim::Malformed => Ok(None),
    }
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
    let (parsed, if_answered) = register::parse(body, OWNER)?;
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
