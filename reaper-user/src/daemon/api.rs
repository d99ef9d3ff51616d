//! The protocol: HTTP/1.1 with JSON bodies over a Unix socket.
//!
//! # Routes
//!
//! | method and path | what |
//! |---|---|
//! | `POST /v1/sessions/register` | store a session, replacing the live one of its id, or renew it |
//! | `GET /v1/sessions[?pid=&mesh=&verbose=1]` | the caller's sessions; root sees all |
//! | `GET`, `DELETE /v1/sessions/me` | the session of the presented token |
//! | `DELETE /v1/sessions/TOKEN` | the same, for clients of the origin |
//! | `DELETE /v1/sessions/by-id/ID` | by name, for the session's user and root |
//! | `GET /v1/events[?event=a,b][&session=ID][&snapshot=1]` | the history, as it happens |
//! | `GET /v1/sources`, `/v1/health`, `/v1/version` | how well the daemon works, and what it is |
//!
//! Paths match exactly; a wrong method is 404 like a wrong path. A session is presented as
//! `Authorization: ClaudeMesh-Session <64 hex digits>`. Every error is `application/problem+json`
//! and carries `code` for programs and `error` for clients of the origin.
//!
//! Two fields of a registration serve programs that start others, as `reaperd run` does. `token_file`
//! (an absolute path of at most 4,096 bytes) names the file that holds the token: at the session's end
//! the daemon removes it, if session, file and daemon belong to one user and the file holds that token
//! and nothing else. `if_answered` (a boolean) has the registration hold only if its answer can be
//! delivered: a caller that gives up closes its connection, or first shuts it down for reading to see
//! whether an answer was on its way, and then has no session.
//!
//! # What a client may rely on
//!
//! - A registration that was answered resolves from then on, and its `session_registered` comes
//!   before anything else about it.
//! - A session lives as long as its process, or until its `ttl` is over (seconds, or `"process"`; 24 h
//!   for those that ask for nothing). From `expires_at` on it does not resolve; its event comes with
//!   that look-up or with the next sweep.
//! - The same token, session id and process again renew it: `"renewed": true`, the ttl starts anew, and
//!   there is no event. Another process gets 409 `token_in_use` as long as the former one lives.
//! - Each stored session has exactly one `session_deregistered`, and by then it no longer resolves.
//! - Events come in the order of their numbers. A number that a reader missed is inside of a `gap`.
//! - A `snapshot` holds the state after the event whose number it bears, and before the next one.
//! - Nothing waits for a reader. One that lags behind the ring of 4,096 events gets a `gap`.
//! - Which sessions a list holds is the state of one moment. A list of more than 64 KiB that does not
//!   fit beside those that are still to be read is refused for now (503, `too_many_lists`, Retry-After).
//! - Event streams leave connections to requests, however many are asked for: one too many is refused
//!   (429, `too_many_streams`, Retry-After). When all connections are in use, the one that has waited
//!   longest for a request is closed for the one that comes.
//! - An event stream ends by the end of the connection, so that a reader notices the death of the
//!   daemon itself.
//!
//! # The way of a request
//!
//! [`listener`] (who may connect) → [`framing`] (where messages end) → hyper → [`policy`] (the
//! same checks for every path, in a fixed order) → [`routes`] → [`problem`] or [`wire`].
//!
//! [`framing`]: super::http::framing
//! [`policy`]: super::http::policy
//! [`problem`]: super::http::problem

pub(crate) mod authorize;
mod connection_budget;
pub(crate) mod events;
mod health;
pub(crate) mod listener;
pub(crate) mod register;
mod routes;
pub(crate) mod server;
pub(crate) mod sessions;
pub(crate) mod sse;
#[cfg(test)]
mod tests;
mod undelivered;
pub(crate) mod wire;

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};

use crate::daemon::config::DaemonOptions;
use crate::reaper::Reaper;
use crate::sys::process_table::ProcessTable;
use crate::watch::fd_budget::Shares;

/// What every request can reach.
pub(crate) struct App {
    pub(crate) reaper: Reaper,
    pub(crate) options: DaemonOptions,
    pub(crate) table: Arc<dyn ProcessTable>,
    /// New at each start: event numbers of another epoch mean nothing in this one.
    pub(crate) epoch: u64,
    /// Rung after each event.
    pub(crate) events: Arc<Notify>,
    pub(crate) descriptors: Shares,
    /// One permit for each event stream that may still be opened.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) lists: sessions::ListBudget,
}

/// By which door a connection came in. A property of the listener, never guessed from an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Unix,
}

/// Who is at the other end, as the kernel says it was at the time of connecting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) transport: Transport,
    pub(crate) uid: u32,
    /// Zero where the peer lives in a pid namespace that we do not see into; `None` where the
    /// system does not tell.
    pub(crate) pid: Option<i32>,
    pub(crate) pid_ns: PidNs,
}

/// What the numbers mean by which a peer names processes.
#[cfg_attr(
    not(any(target_os = "linux", test)),
    expect(dead_code, reason = "elsewhere there is one numbering for all")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PidNs {
    /// The same as here.
    Ours,
    /// The peer is in a pid namespace below ours: its own number there, and the inode number of that
    /// namespace where the system shows it.
    Nested { own: i32, namespace: Option<u64> },
    /// The system does not tell.
    Unknown,
    /// It would, were it not short of descriptors or memory.
    NotNow,
}

impl Peer {
    pub(crate) fn is_root(self) -> bool {
        self.uid == 0
    }

    /// Whether sessions of this user are shown to it.
    pub(crate) fn sees(self, owner: u32) -> bool {
        self.is_root() || self.uid == owner
    }
}
