//! `reaperd register` and `reaperd renew`: a session of a process that runs already. No token is on a
//! command line, which every user can read.

mod file;

use std::path::{Path, PathBuf};

use reaper_registry::Token;
use serde_json::{Value, json};

use self::file::TokenPath;
use super::details::{Details, Lifetime, ttl, warn_of};
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::lookup::{no_session, read_token};
use super::output::{escape, json_line, print_line};
use super::random;
use super::run::token_file;
use crate::client::{Client, ClientError};
use crate::daemon::socket_path::{Surroundings, runtime_folder};

/// For `reaperd register --help` and its manual page.
pub(super) const HELP: &str = "\
Token:
  A new token is created, unless the file of --token-file exists: then its token is used, so the same command \
with the same --id renews the session. A file that is created has mode 0600, and stays when the session ends. Without --token-file \
the token is printed behind the id of the session, and nowhere else.

Output:
  The id of the session; with a new token that has no file, a tab and the token.
  With --json: schema, session_id, pid (the first), token (null if it is in a file), token_file, renewed, expires_at, sources.

Exit status:
  0  The session was stored or renewed
  1  The daemon refused it, or the token file cannot be used
  3  No daemon is listening
  5  The process belongs to another user

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd register --pid 4711 --id build-7 --token-file build-7.token
  reaperd register --pid $$ --label job=7 --ttl 1h --json
  reaperd register --pid 4711 --pid 4712 --id agent";

/// For `reaperd renew --help` and its manual page.
pub(super) const RENEW_HELP: &str = "\
The session keeps its id, process, mesh, name, role, groups and labels. A session with a presence can only be renewed by \
its own client, which has the secret key.

Exit status:
  0  The session was renewed
  3  No daemon is listening
  4  No session has this token

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd renew --token-file build-7.token --ttl 1h
  reaperd renew --token-file \"$REAPERD_TOKEN_FILE\"";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Process of the session; given more than once, the session lasts until the last of them ends
    #[arg(long, value_name = "PID", required = true)]
    pid: Vec<u32>,
    /// ID of the session, which replaces the one that has it [default: reg- and random digits]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// File with the token, which is created if it does not exist; - prints a new token
    #[arg(long, value_name = "FILE", default_value = "-")]
    token_file: PathBuf,
    /// Display name of the session [default: its ID]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    details: Details,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Renewal {
    /// File with the token of the session
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// How long the session lasts from now on: a time such as 30s or 1h, or `process` [default: as before]
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    ttl: Option<Lifetime>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let texts = [
            ("--id", self.id.as_deref()),
            ("--name", self.name.as_deref()),
        ];
        self.details.check("register", &texts)?;
        let (token, file) = TokenPath::open(&self.token_file)?;
        let session_id = match &self.id {
            Some(id) => id.clone(),
            None => format!("reg-{:016x}", u64::from_be_bytes(random()?)),
        };
        let body = json!({
            "token": token.reveal().as_str(),
            "session_id": session_id,
            "mesh": self.details.mesh,
            "display_name": self.name.as_ref().unwrap_or(&session_id),
            "pid": self.pid[0],
            "pids": (self.pid.len() > 1).then_some(&self.pid),
            "role": self.details.role,
            "groups": self.details.group,
            "labels": self.details.labels(),
            "ttl": self.details.ttl.as_json(),
            "if_answered": true,
        });
        let registered = match post(client, body).await {
            Ok(registered) => registered,
            Err(error) => {
                file.remove_if_new();
                return Err(refused(error, &self.pid));
            }
        };
        if self.is_of_several() && registered["processes"].is_null() {
            file.remove_if_new();
            return Err(self.without_further(client, &token, &registered).await);
        }
        let printed = file.is_printed().then(|| token.reveal());
        let printed = printed.as_ref().map(|token| token.as_str());
        let text = if self.json {
            let file = (!file.is_printed()).then(|| self.token_file.to_string_lossy());
            let mut report = report(&session_id, self.pid[0].into(), &registered);
            report["token"] = printed.into();
            report["token_file"] = file.as_deref().into();
            json_line(&report)
        } else {
            let token = printed.map(|token| format!("\t{token}"));
            format!("{}{}", escape(&session_id), token.unwrap_or_default())
        };
        let shown = print_line(&text);
        if shown.is_err() && file.is_printed() {
            // The session would have a token that is nowhere.
            remove(client, &token).await.unwrap_or_default();
        }
        shown.map(|()| ExitCode::Success)
    }

    fn is_of_several(&self) -> bool {
        self.pid.iter().any(|pid| *pid != self.pid[0])
    }

    /// Takes back a session that hangs on the first process only, because the daemon is of a former version.
    async fn without_further(&self, client: &Client, token: &Token, registered: &Value) -> Failure {
        let first = self.pid[0];
        let state = if registered["renewed"] == true {
            format!("the session, which existed, was renewed for process {first} alone")
        } else {
            match remove(client, token).await {
                Ok(()) => "the session was removed".to_owned(),
                Err(error) => format!(
                    "the session hangs on process {first} alone and could not be removed: {error}"
                ),
            }
        };
        Failure::new(
            format!("the daemon does not know sessions of several processes; {state}"),
            "restart the daemon with the version of this command (reaperd version shows it), or use one --pid",
        )
    }
}

impl Renewal {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let token = read_token(&self.token_file)?;
        let (is_live, found) = client.session_of(&token).await?;
        if !is_live {
            let detail = found["detail"].as_str().unwrap_or_default();
            return Err(no_session(format!(
                "no session has this token: {}",
                escape(detail)
            )));
        }
        let session = &found["session"];
        if !session["presence"].is_null() {
            return Err(Failure::new(
                "the session has a presence, whose secret key is not shown",
                "renew it with the client that registered it",
            ));
        }
        let living = living_pids(session);
        let body = json!({
            "token": token.reveal().as_str(),
            "session_id": session["sessionId"],
            "mesh": session["mesh"],
            "display_name": session["displayName"],
            "pid": if living.is_empty() { session["pid"].clone() } else { Value::Null },
            "pids": (!living.is_empty()).then_some(living),
            "cwd": session["cwd"],
            "role": session["role"],
            "groups": session["groups"],
            "labels": session["labels"],
            "ttl": self.ttl.map(Lifetime::as_json),
            "token_file": path_if_of_run(&self.token_file),
        });
        let renewed = post(client, body).await?;
        let id = session["sessionId"].as_str().unwrap_or_default();
        print_line(&if self.json {
            json_line(&report(id, session["pid"].clone(), &renewed))
        } else {
            escape(id).into_owned()
        })?;
        Ok(ExitCode::Success)
    }
}

async fn remove(client: &Client, token: &Token) -> Result<(), ClientError> {
    let removed: Result<Value, _> = client.delete_as(token, "/v1/sessions/me").await;
    removed.map(drop)
}

/// Returns the processes that a session of several still hangs on; none for a session of one.
fn living_pids(session: &Value) -> Vec<Value> {
    let members = session["members"].as_array().into_iter().flatten();
    let living = members.filter(|member| member["ended"] == false);
    living.map(|member| member["pid"].clone()).collect()
}

/// Returns the path if `run` has written the file: the daemon then goes on to remove it at the end of the
/// session. The fields of a renewal replace the former ones.
fn path_if_of_run(file: &Path) -> Option<String> {
    let path = std::path::absolute(file).ok()?;
    let folder = runtime_folder(&Surroundings::of_this_process()).path;
    let is_of_run = path.parent()? == folder.join(token_file::FOLDER)
        && path.file_name()?.to_str()?.starts_with(token_file::PREFIX);
    path.to_str().filter(|_| is_of_run).map(str::to_owned)
}

async fn post(client: &Client, mut body: Value) -> Result<Value, ClientError> {
    if let Value::Object(fields) = &mut body {
        fields.retain(|_name, value| !value.is_null());
    }
    let registered: Value = client
        .post_if_answered("/v1/sessions/register", &body)
        .await?;
    let ignored = registered["ignored"].as_array().into_iter().flatten();
    let ignored = ignored.filter_map(|name| name.as_str().map(str::to_owned));
    warn_of(&ignored.collect::<Vec<_>>());
    Ok(registered)
}

fn refused(error: ClientError, pids: &[u32]) -> Failure {
    let remedy = match &error {
        ClientError::Problem { code, .. } if code == "process_gone" => {
            // The message names the one of several.
            let which = match pids {
                [pid] => format!("{pid} has ended"),
                _ => "one of these has ended".to_owned(),
            };
            format!("use --pid with a process that runs; {which}")
        }
        ClientError::Problem { code, .. } if code == "token_in_use" => {
            "use another --token-file: the token in this one is of a live session of another process"
                .to_owned()
        }
        _ => return error.into(),
    };
    Failure {
        remedy,
        ..error.into()
    }
}

fn report(id: &str, pid: Value, registered: &Value) -> Value {
    json!({
        "schema": 1,
        "session_id": id,
        "pid": pid,
        "renewed": registered["renewed"],
        "expires_at": registered["expires_at"],
        "sources": registered["sources"],
    })
}
