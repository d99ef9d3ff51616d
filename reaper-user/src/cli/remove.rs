//! `reaperd rm`.

use std::path::PathBuf;

use serde_json::Value;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::lookup::{no_session, read_token};
use super::output::escape;
use super::values;
use crate::client::{Client, ClientError, percent_encode};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// ID of the session to remove
    #[arg(required_unless_present = "token_file", conflicts_with = "token_file")]
    session_id: Option<String>,
    /// User of the session with this ID; only root may name another one
    #[arg(long, value_name = "USER", value_parser = values::user, conflicts_with = "token_file")]
    uid: Option<u32>,
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
                let uid = self.uid.map(|uid| format!("?uid={uid}"));
                let (id, uid) = (percent_encode(id), uid.unwrap_or_default());
                client
                    .delete(&format!("/v1/sessions/by-id/{id}{uid}"))
                    .await
            }
            // The definition of the arguments requires one of them.
            (None, None) => return Err(no_session("no session given".to_owned())),
        };
        match result {
            Ok(_) => Ok(ExitCode::Success),
            Err(error) => Err(self.failure(error)),
        }
    }

    fn failure(&self, error: ClientError) -> Failure {
        let ClientError::Problem {
            status,
            code,
            detail,
        } = &error
        else {
            return error.into();
        };
        let remedy = match (&self.session_id, status, code.as_str()) {
            (Some(id), 404, _) => return no_session(format!("no session with id {id:?}")),
            // The daemon does not accept a token without a session, so it responds with 401.
            (None, 401 | 404, _) => {
                return no_session(format!("no session has this token: {}", escape(detail)));
            }
            (_, _, "ambiguous_session") => {
                "reaperd rm SESSION_ID --uid UID   (reaperd ls --json shows the uids)"
            }
            (_, _, "needs_token") => "reaperd rm --token-file FILE",
            _ => return error.into(),
        };
        Failure {
            remedy: remedy.to_owned(),
            ..error.into()
        }
    }
}
