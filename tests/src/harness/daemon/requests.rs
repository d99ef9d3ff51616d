//! What tests request of a daemon, by whatever it was started.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reaper_registry::Token;
use reaperd::client::{Client, ClientError, Session, SourceReport, SourcesReport};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{Events, session_of};
use crate::expect::{self, State};
use crate::wait::{TIMEOUT, eventually_some};

/// A client of a daemon.
pub struct Requests {
    pub(super) client: Client,
    runtime: Runtime,
    /// What it prints, if that goes to a file.
    log: PathBuf,
}

impl Requests {
    /// To the daemon on this socket. A log beside it is what that daemon prints.
    pub fn to(socket: &Path) -> Self {
        let client = Client::new(socket).with_time_limit(TIMEOUT);
        Self::by(client)
    }

    /// By this client.
    pub(super) fn by(client: Client) -> Self {
        Self {
            log: client.socket().with_file_name("log"),
            client,
            runtime: runtime(),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.client.socket().to_owned()
    }

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Reads a resource.
    pub fn get<T: serde::de::DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.runtime.block_on(self.client.get(target))
    }

    /// Reads a resource within this time.
    pub fn get_within<T: serde::de::DeserializeOwned>(
        &self,
        limit: Duration,
        target: &str,
    ) -> Result<T, ClientError> {
        let client = self.client.clone().with_time_limit(limit);
        self.runtime.block_on(client.get(target))
    }

    /// Registers a session with this id for the process.
    pub fn try_register(&self, id: &str, pid: u32) -> Result<Token, ClientError> {
        self.try_register_with(id, pid, Value::default())
    }

    /// As above, with further fields.
    pub fn try_register_with(
        &self,
        id: &str,
        pid: u32,
        mut details: Value,
    ) -> Result<Token, ClientError> {
        let token = Self::token_of(id, pid);
        details["token"] = token.reveal().as_str().into();
        details["session_id"] = id.into();
        details["mesh"] = "test".into();
        details["display_name"] = id.into();
        details["pid"] = pid.into();
        let _registered: Value = self
            .runtime
            .block_on(self.client.post("/v1/sessions/register", &details))?;
        Ok(token)
    }

    /// The token under which a session with this id is registered for this process.
    pub fn token_of(id: &str, pid: u32) -> Token {
        let mut bytes = [0; 32];
        // Any token will do that no other session has.
        let tail = &id.as_bytes()[id.len().saturating_sub(28)..];
        bytes[..tail.len()].copy_from_slice(tail);
        bytes[28..].copy_from_slice(&pid.to_ne_bytes());
        Token::from_bytes(bytes)
    }

    /// Removes the session of this token.
    pub fn remove(&self, token: &Token) -> Result<(), ClientError> {
        let removed = self.client.delete_as::<Value>(token, "/v1/sessions/me");
        self.runtime.block_on(removed).map(drop)
    }

    /// As above; a refusal fails the test.
    pub fn register(&self, id: &str, pid: u32) -> Token {
        self.try_register(id, pid)
            .unwrap_or_else(|error| panic!("register {id} for {pid}: {error}\n{}", self.log()))
    }

    /// Registers a session for each process, with the id of [`session_of`].
    pub fn register_all(&self, pids: impl IntoIterator<Item = u32>) {
        for pid in pids {
            self.register(&session_of(pid), pid);
        }
    }

    pub fn list(&self) -> Vec<Session> {
        self.runtime.block_on(self.client.sessions("")).unwrap()
    }

    /// The ids of the listed sessions.
    pub fn listed(&self) -> BTreeSet<String> {
        self.list().into_iter().map(|it| it.session_id).collect()
    }

    /// Whether this session is listed.
    pub fn lists(&self, id: &str) -> bool {
        self.listed().contains(id)
    }

    /// Whether this token resolves to a session; an error if the daemon does not respond.
    pub fn resolves(&self, token: &Token) -> Result<bool, ClientError> {
        let response = self
            .runtime
            .block_on(self.client.get_as::<Value>(token, "/v1/sessions/me"));
        match response {
            Ok(_) => Ok(true),
            Err(ClientError::Problem { status: 401, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// As above; an error fails the test.
    pub fn accepts(&self, token: &Token) -> bool {
        self.resolves(token)
            .unwrap_or_else(|error| panic!("resolve: {error}"))
    }

    pub fn sources(&self) -> SourcesReport {
        self.get("/v1/sources").unwrap()
    }

    /// The report on this source.
    pub fn source(&self, name: &str) -> SourceReport {
        let mut reports = self.sources().sources.into_iter();
        let report = reports.find(|report| report.source == name);
        report.unwrap_or_else(|| panic!("{name} is not reported"))
    }

    /// Waits until this source is reported to work, or to be down; returns the reason then.
    pub fn settled(&self, source: &str) -> Result<(), String> {
        eventually_some("the source has a final state", || {
            let report = self.source(source);
            match report.state.as_str() {
                _ if report.works() => Some(Ok(())),
                "down" => Some(Err(report.reason)),
                _ => None,
            }
        })
    }

    /// Whether this source works here. If not, prints that the test is skipped, or fails it if the
    /// source is required or expected.
    pub fn has_source(&self, source: &str) -> bool {
        let state = match self.settled(source) {
            Ok(()) => State::Up,
            Err(reason) => expect::source_state(false, &reason),
        };
        expect::available(source, &state)
    }

    /// Follows the events from here on.
    pub fn events(&self) -> Events {
        Events::open(&self.runtime, &self.client)
    }
}

/// A runtime for a client.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
