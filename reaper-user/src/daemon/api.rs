//! The protocol: HTTP/1.1 with JSON bodies over a Unix socket.
//!
//! # Routes
//!
//! | method and path | effect |
//! |---|---|
//! | `POST /v1/sessions/register` | stores or renews a session; replaces the live one of its id |
//! | `GET /v1/sessions[?pid=&mesh=&verbose=1]` | the caller's sessions; root sees all |
//! | `GET`, `DELETE /v1/sessions/me` | the session of the presented token |
//! | `DELETE /v1/sessions/TOKEN` | the same, for clients of the claudemesh daemon |
//! | `DELETE /v1/sessions/by-id/ID` | by name, for the session's user and root |
//! | `GET /v1/events[?event=a,b][&session=ID][&snapshot=1]` | a stream of events |
//! | `GET /v1/sources`, `/v1/health`, `/v1/version` | the state of the daemon, and its version |
//!
//! Paths match exactly; a wrong method is 404 like a wrong path. A session is presented as
//! `Authorization: ClaudeMesh-Session <64 hex digits>`. Every error is `application/problem+json`
//! with a `code`, and an `error` as the claudemesh daemon has it.
//!
//! Two fields of a registration are for programs that start others, as `reaperd run` does.
//! `token_file` (an absolute path of at most 4,096 bytes) names the file that contains the token.
//! At the end of the session the daemon removes it, if session, file and daemon belong to one user
//! and the file contains that token and nothing else. With `if_answered` (a boolean) the session is
//! kept only if the response can be delivered. A caller that gives up closes its connection, or
//! first shuts it down for reading to find out whether a response was on its way, and then has no
//! session.
//!
//! # Guarantees
//!
//! - A registration resolves from its response on, and its `session_registered` comes
//!   before any other event of the session.
//! - A session lasts as long as its process, or until its `ttl` is over (seconds, or `"process"`;
//!   24 h if absent). From `expires_at` on it does not resolve; its event comes with that look-up
//!   or with the next sweep.
//! - The same token, session id and process again renew a session: `"renewed": true`, the ttl
//!   starts anew, and there is no event. Another process gets 409 `token_in_use` while the first
//!   one lives.
//! - Each stored session has exactly one `session_deregistered`, and by then it no longer resolves.
//! - Events come in the order of their numbers. A number that a reader missed lies within a `gap`.
//! - A `snapshot` is the state after the event with its number, and before the next one.
//! - The daemon never waits for a reader. One that lags behind the ring of 4,096 events gets a
//!   `gap`.
//! - A list is the state of one moment. A list of more than 64 KiB is refused (503,
//!   `too_many_lists`, Retry-After) if the lists that are still being read leave no budget for it.
//! - Event streams leave connections to requests: one too many is refused (429, `too_many_streams`,
//!   Retry-After). If all connections are in use, the one that has been idle longest is closed for
//!   a new one.
//! - An event stream ends with its connection, so that a reader notices the death of the daemon
//!   too.
//!
//! # The path of a request
//!
//! [`listener`] (who may connect) → [`framing`] (where messages end) → hyper → [`policy`] (the same
//! checks for every path, in a fixed order) → [`routes`] → [`problem`] or [`wire`].
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
use crate::daemon::descriptors::Shares;
use crate::reaper::Reaper;
use crate::sys::process_table::ProcessTable;
use crate::sys::secret_arena::SecretArena;

/// The state that all requests share.
pub(crate) struct App {
    pub(crate) reaper: Reaper,
    pub(crate) options: DaemonOptions,
    pub(crate) table: Arc<dyn ProcessTable>,
    /// Random at each start. Event numbers of another epoch are invalid.
    pub(crate) epoch: u64,
    /// Notified after each event.
    pub(crate) events: Arc<Notify>,
    pub(crate) descriptors: Shares,
    /// One permit for each further event stream.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) lists: sessions::ListBudget,
    /// Where secret keys are stored.
    pub(crate) secret_memory: SecretArena,
}

/// The transport of a connection. A property of the listener, never derived from an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Unix,
}

/// The credentials of the peer at the time of connecting, from the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) transport: Transport,
    pub(crate) uid: u32,
    /// Zero if the peer is in a pid namespace that is not visible here; `None` if the system does
    /// not report it.
    pub(crate) pid: Option<i32>,
    pub(crate) pid_ns: PidNs,
}

/// The pid namespace in which the pids that a peer sends are resolved.
#[cfg_attr(
    not(any(target_os = "linux", test)),
    expect(dead_code, reason = "other systems have no pid namespaces")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PidNs {
    /// The daemon's own.
    Same,
    /// A descendant of the daemon's own: the peer's pid there, and the inode number of the
    /// namespace if the system shows it.
    Nested {
        peer_pid: i32,
        namespace: Option<u64>,
    },
    /// The system does not report it.
    Unknown,
    /// Not read, for lack of descriptors or memory.
    NotNow,
}

impl Peer {
    pub(crate) fn is_root(self) -> bool {
        self.uid == 0
    }

    /// Returns whether sessions of this user are shown to this peer.
    pub(crate) fn sees(self, owner: u32) -> bool {
        self.is_root() || self.uid == owner
    }
}
