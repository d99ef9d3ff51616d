//! How commands name a session: by its id, or by the file with its token.

use std::fs;
use std::path::Path;

use reaper_registry::Token;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::exit_code::ExitCode;
use super::failure::Failure;
use crate::client::{Client, ClientError, ExitSeen, percent_encode};

/// Which session it is, and the processes that it hangs on.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Who {
    pub(super) session_id: String,
    pub(super) pid: u32,
    start_time: Option<String>,
    pub(super) uid: Option<u32>,
    #[serde(rename = "token_prefix")]
    token_prefix: Option<String>,
    /// Empty for a session of one process.
    #[serde(default)]
    members: Vec<Member>,
}

/// One of several processes of a session.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Member {
    pid: u32,
    start_time: Option<String>,
    ended: bool,
    /// `None`: it lives, or the exit status is not known.
    pub(super) exit: Option<ExitSeen>,
}

impl Who {
    pub(super) fn of(session: &Value) -> Result<Self, ClientError> {
        Self::deserialize(session).map_err(|error| ClientError::Protocol {
            detail: format!("cannot parse a session: {error}"),
        })
    }

    /// Returns whether both are the same session. A renewal may change the processes of a session of several,
    /// but not that of a session of one.
    pub(super) fn is(&self, other: &Self) -> bool {
        let is_alone = self.is_alone() && other.is_alone();
        self.session_id == other.session_id
            && self.uid == other.uid
            && self.token_prefix == other.token_prefix
            && (!is_alone || (self.pid == other.pid && self.start_time == other.start_time))
    }

    /// Returns whether it is a session of one process, so that it ends with this process.
    pub(super) fn is_alone(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns whether the only process of this session is the one with this pid and start time.
    pub(super) fn is_of(&self, pid: u32, start_time: u64) -> bool {
        self.is_alone() && is_process((self.pid, self.start_time.as_deref()), pid, start_time)
    }

    /// Returns whether the session still hangs on this process, alone or beside others.
    pub(super) fn hangs_on(&self, pid: u32, start_time: u64) -> bool {
        let is_it = |it: &Member| !it.ended && it.is(pid, start_time);
        self.is_of(pid, start_time) || self.members.iter().any(is_it)
    }

    /// Returns this process if it is one of several and has ended.
    pub(super) fn ended_member(&self, pid: u32, start_time: u64) -> Option<&Member> {
        let mut members = self.members.iter();
        members.find(|it| it.ended && it.is(pid, start_time))
    }
}

impl Member {
    fn is(&self, pid: u32, start_time: u64) -> bool {
        is_process((self.pid, self.start_time.as_deref()), pid, start_time)
    }
}

fn is_process(found: (u32, Option<&str>), pid: u32, start_time: u64) -> bool {
    found == (pid, Some(&*start_time.to_string()))
}

/// Reads the session with this id. Fails if there is none, and if several users have one.
pub(super) async fn session(
    client: &Client,
    command: &str,
    id: &str,
    uid: Option<u32>,
) -> Result<Value, Failure> {
    let uid = uid.map(|uid| format!("&uid={uid}")).unwrap_or_default();
    // An older daemon does not know `session` and sends all.
    let filter = format!("verbose=1&session={}{uid}", percent_encode(id));
    let mut found: Vec<Value> = client.sessions(&filter).await?;
    found.retain(|session| session["sessionId"] == id);
    match found.len() {
        0 => Err(no_session(format!("no session with id {id:?}"))),
        1 => Ok(found.remove(0)),
        _ => Err(ambiguous(command, id)),
    }
}

pub(super) fn no_session(message: String) -> Failure {
    Failure {
        code: ExitCode::NoSession,
        message,
        remedy: "reaperd ls".to_owned(),
    }
}

pub(super) fn ambiguous(command: &str, id: &str) -> Failure {
    Failure::new(
        format!("several users have a session with id {id:?}"),
        format!("reaperd {command} SESSION_ID --uid UID   (reaperd ls --json shows the uids)"),
    )
}

/// Reads the token of a session.
pub(super) fn read_token(file: &Path) -> Result<Token, Failure> {
    let text = fs::read_to_string(file)
        .map(Zeroizing::new)
        .map_err(|error| {
            Failure::new(
                format!("cannot read {}: {error}", file.display()),
                "use the file in the session's REAPERD_TOKEN_FILE variable",
            )
        })?;
    parse_token(file, &text)
}

/// Parses the content of a token file.
pub(super) fn parse_token(file: &Path, text: &str) -> Result<Token, Failure> {
    Token::parse(text.trim()).map_err(|error| {
        Failure::new(
            format!("{}: {error}", file.display()),
            "use a file with a token of 64 hexadecimal digits",
        )
    })
}
