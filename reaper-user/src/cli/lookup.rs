//! How commands name a session: by its id, or by the file with its token.

use std::fs;
use std::path::Path;

use reaper_registry::Token;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::exit_code::ExitCode;
use super::failure::Failure;
use crate::client::{Client, ClientError, percent_encode};

/// What stays the same of a session while it lives, and differs from that of every other session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Who {
    pub(super) session_id: String,
    pub(super) pid: u32,
    pub(super) start_time: Option<String>,
    pub(super) uid: Option<u32>,
    #[serde(rename = "token_prefix")]
    token_prefix: Option<String>,
}

impl Who {
    pub(super) fn of(session: &Value) -> Result<Self, ClientError> {
        Self::deserialize(session).map_err(|error| ClientError::Protocol {
            detail: format!("cannot parse a session: {error}"),
        })
    }
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
