//! `reaperd rm`.

use std::fs;
use std::path::PathBuf;

use reaper_registry::Token;
use serde_json::Value;
use zeroize::Zeroizing;

use super::exit_code::ExitCode;
use super::failure::Failure;
use crate::client::{Client, ClientError, percent_encode};

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Arguments {
    /// ID of the session to remove
    session_id: Option<String>,
    /// Remove the session whose token is in this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let result: Result<Value, ClientError> = match (&self.session_id, &self.token_file) {
            (_, Some(file)) => {
                client
                    .delete_as(&read_token(file)?, "/v1/sessions/me")
                    .await
            }
            (Some(id), None) => {
                client
                    .delete(&format!("/v1/sessions/by-id/{}", percent_encode(id)))
                    .await
            }
            // The argument group requires one of them.
            (None, None) => return Err(no_session("no session given".to_owned())),
        };
        match (result, &self.session_id) {
            (Ok(_), _) => Ok(ExitCode::Success),
            (Err(ClientError::Problem { status: 404, .. }), Some(id)) => {
                Err(no_session(format!("no session with id {id:?}")))
            }
            // The daemon does not accept a token without a session, so it responds with 401.
            (
                Err(ClientError::Problem {
                    status: 401 | 404,
                    detail,
                    ..
                }),
                None,
            ) => Err(no_session(format!("no session has this token: {detail}"))),
            (Err(error), _) => Err(error.into()),
        }
    }
}

fn no_session(message: String) -> Failure {
    Failure {
        code: ExitCode::NoSession,
        message,
        remedy: "reaperd ls".to_owned(),
    }
}

fn read_token(file: &PathBuf) -> Result<Token, Failure> {
    let text = fs::read_to_string(file)
        .map(Zeroizing::new)
        .map_err(|error| {
            Failure::new(
                format!("cannot read {}: {error}", file.display()),
                "use the file in the session's REAPERD_TOKEN_FILE variable",
            )
        })?;
    Token::parse(text.trim()).map_err(|error| {
        Failure::new(
            format!("{}: {error}", file.display()),
            "use a file with a token of 64 hexadecimal digits",
        )
    })
}
