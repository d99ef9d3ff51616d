//! The protocol: HTTP/1.1 with JSON bodies over a Unix socket.
//!
//! # Routes
//!
//! | method and path | effect |
//! |---|---|
//! | `POST /v1/sessions/register` | stores or renews a session; replaces the caller's live one of its id |
//! | `GET /v1/sessions[?uid=&pid=&mesh=&label=&verbose=1&limit=&after=]` | the caller's sessions; root sees all |
//! | `GET /v1/sessions/ended[?since=&uid=&limit=&after=]` | sessions that have ended, the last one first |
//! | `GET`, `DELETE /v1/sessions/me` | the session of the presented token |
//! | `DELETE /v1/sessions/TOKEN` | the same, for clients of the claudemesh daemon |
//! | `DELETE /v1/sessions/by-id/ID[?uid=]` | by name, for the session's user and root |
//! | `GET /v1/events[?event=a,b][&session=ID][&uid=][&mesh=][&label=][&snapshot=1]` | a stream of events |
//! | `POST /v1/daemon/replace` | for a successor of the daemon; then its connection carries the hand-over |
//! | `GET /v1/limits` | what the caller holds and may hold; for root, of all users |
//! | `GET /v1/sources`, `/v1/health`, `/v1/version` | the state of the daemon, and its version |
//! | `GET /metrics` | the metrics of the daemon |
//! | `GET /v1/openapi.json` | the description of these routes for programs, `docs/openapi.json` |
//! | `GET /problems/CODE` | describes the errors with this code |
//! | `GET /v1/proof?nonce=HEX` | over TCP only: proves that the daemon has the bearer |
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
//!   starts anew, and there is no event. With another mesh or other labels they replace it. Another process gets 409 `token_in_use` while the first
//!   one lives.
//! - Each stored session has exactly one `session_deregistered`, and by then it no longer resolves.
//! - Events come in the order of their numbers. A number that a reader missed lies within a `gap`.
//! - Session ids are per user. A token is good for its session's user and root; for others it is
//!   unknown.
//! - A `snapshot` has the sessions that were live after the event with its number. One that ends
//!   before it is written is absent, and its `session_deregistered` follows.
//! - The daemon never waits for a reader. It keeps 4,096 events; if there are more, the user that has
//!   most of them loses his oldest one. A reader that lags behind gets a `gap`.
//! - A list has the sessions that are live from the request until it is written. It is written in
//!   pieces as its reader takes them.
//! - A reader that takes less than 1 KiB a second, while more is waiting, for a minute in all, is
//!   disconnected.
//! - Connections, event streams and requests in progress are shared fairly among users
//!   ([`accounts`](super::accounts)); what is beyond a share is refused (429, Retry-After). If the
//!   connections are used up, an idle one is closed for a new one.
//! - An event stream ends with its connection, so that a reader notices the death of the daemon
//!   too.
//!
//! # The path of a request
//!
//! [`listener`] (who can connect) → [`admission`] (who is served) → [`framing`] (where messages end) → hyper → [`policy`] (the same
//! checks for every path, in a fixed order) → [`routes`] → [`problem`] or [`wire`].
//!
//! [`framing`]: super::http::framing
//! [`policy`]: super::http::policy
//! [`problem`]: super::http::problem

pub(crate) mod admission;
pub(crate) mod authorize;
mod connection;
mod connection_budget;
mod documents;
mod ended;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod metrics;
mod peaks;
pub(crate) mod peer_pin;
pub(crate) mod proof;
mod refused;
pub(crate) mod register;
mod remove;
mod replace;
mod routes;
mod scope;
pub(crate) mod selection;
pub(crate) mod server;
pub(crate) mod sessions;
pub(crate) mod sse;
mod stream;
#[cfg(test)]
mod tests;
mod undelivered;
pub(crate) mod wire;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reaper_registry::Moment;

use tokio::net::TcpListener;

use self::peer_pin::PeerPin;
use crate::daemon::accounts::Accounts;
use crate::daemon::config::DaemonOptions;
use crate::daemon::descriptors::Shares;
use crate::daemon::handover::Handovers;
use crate::daemon::metrics::Counters;
use crate::daemon::reload::Live;
use crate::daemon::restart::{Belongings, CarriedOver};
use crate::daemon::tcp::Door;
use crate::reaper::Reaper;
use crate::sys::process_table::ProcessTable;
use crate::sys::secret_arena::SecretArena;

/// The state that all requests share.
pub(crate) struct App {
    pub(crate) reaper: Reaper,
    /// The options, which a reload changes.
    pub(crate) live: Live,
    /// How the start divided the descriptors.
    pub(crate) descriptors: Shares,
    /// When it started.
    pub(crate) started: Moment,
    pub(crate) table: Arc<dyn ProcessTable>,
    /// Random at each start. Event numbers of another epoch are invalid.
    pub(crate) epoch: u64,
    /// The number of the first event behind those of former daemons.
    pub(crate) first_event: u64,
    /// What each user makes the daemon hold.
    pub(crate) accounts: Arc<Accounts>,
    /// Where secret keys are stored.
    pub(crate) secret_memory: SecretArena,
    pub(crate) counters: Counters,
    /// Where metrics are served over TCP, if they are.
    pub(crate) metrics_listener: Option<TcpListener>,
    /// Where the API is served over TCP, if it is.
    pub(crate) tcp: Option<Door>,
    /// What other programs have done to the files of this daemon, and it cannot undo.
    pub(crate) conflicts: Mutex<Vec<String>>,
    /// Where a successor asks for a hand-over.
    pub(crate) handovers: Handovers,
    /// What this daemon continues.
    pub(crate) carried_over: CarriedOver,
    /// The memory that a successor gets.
    pub(crate) belongings: Belongings,
}

impl App {
    /// Returns the options that are in force now.
    pub(crate) fn options(&self) -> Arc<DaemonOptions> {
        self.live.options()
    }

    pub(crate) fn conflicts(&self) -> Vec<String> {
        let conflicts = self.conflicts.lock();
        conflicts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets what is reported as conflicts.
    pub(crate) fn set_conflicts(&self, conflicts: Vec<String>) {
        *self
            .conflicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = conflicts;
    }
}

/// The transport of a connection. A property of the listener, never derived from an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Unix,
    /// TCP on the loopback interface.
    Tcp {
        /// Whether `/v1/health` needs no bearer.
        public_health: bool,
    },
    /// TCP, for metrics only.
    Metrics {
        /// Of the loopback interface.
        is_local: bool,
    },
}

/// The number that is no user: `(uid_t) -1`.
pub(crate) const NO_USER: u32 = u32::MAX;

/// The credentials of the peer at the time of connecting, from the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) transport: Transport,
    pub(crate) uid: u32,
    /// Zero if the peer is in a pid namespace that is not visible here; `None` if the system does
    /// not report it.
    pub(crate) pid: Option<i32>,
    /// Read for the first registration.
    pub(crate) pid_ns: PidNs,
    /// Distinguishes it from a later process with this pid.
    pub(crate) pin: PeerPin,
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
    /// Not read yet, or not for lack of descriptors or memory.
    NotNow,
}

/// The pid namespace of the peer once a registration has read it: one for each connection, because a
/// process never changes it. If it was read of another process with the peer's pid, the peer has ended,
/// and no registration of the connection succeeds.
#[derive(Clone, Default)]
pub(crate) struct PeerPidNs(Arc<OnceLock<PidNs>>);

impl PeerPidNs {
    /// Reads it, unless an earlier registration has.
    pub(crate) fn of(&self, peer: Peer) -> PidNs {
        if peer.transport != Transport::Unix {
            // It is unknown who connects, so the pids are those of the daemon.
            return PidNs::Same;
        }
        if let Some(known) = self.0.get() {
            return *known;
        }
        match authorize::pid_ns_of(peer.pid) {
            PidNs::NotNow => PidNs::NotNow,
            read => *self.0.get_or_init(|| read),
        }
    }
}

impl Peer {
    /// Creates the peer of a connection over TCP. A client with the bearer acts as the daemon's own user, who
    /// can read it.
    pub(crate) fn over_tcp(public_health: bool) -> Self {
        Self {
            transport: Transport::Tcp { public_health },
            uid: rustix::process::geteuid().as_raw(),
            pid: None,
            pid_ns: PidNs::Same,
            pin: PeerPin::None,
        }
    }

    /// Returns whether it has the rights of root over other users. Over TCP none has them, not even with a daemon
    /// of root.
    pub(crate) fn is_root(self) -> bool {
        self.uid == 0 && self.transport == Transport::Unix
    }

    /// Returns the user that is charged for its connections, streams and requests. All connections over TCP
    /// share one account: any user can open them, and they must not use up what the daemon's user has.
    pub(crate) fn account(self) -> u32 {
        if self.transport == Transport::Unix {
            self.uid
        } else {
            NO_USER
        }
    }

    /// Returns whether sessions of this user are shown to this peer.
    pub(crate) fn sees(self, owner: u32) -> bool {
        self.is_root() || self.uid == owner
    }
}
