//! `reaperd run`: registers this very process, then becomes the command.

mod token_file;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::{io, process};

use reaper_registry::Token;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::talk;
use super::{new_token, random, thread};
use crate::client::{Client, ClientError, Registered};
use crate::{exit_code, socket_path};

/// The variables that lead a child to its token; the first is the one existing clients know.
const TOKEN_FILE: [&str; 2] = ["CLAUDEMESH_IPC_TOKEN_FILE", "REAPERD_TOKEN_FILE"];
const SESSION_ID: &str = "REAPERD_SESSION_ID";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The name to show [default: the command's]
    #[arg(long)]
    name: Option<String>,
    /// The mesh it belongs to
    #[arg(long, default_value = "default")]
    mesh: String,
    /// Its role
    #[arg(long)]
    role: Option<String>,
    /// A group it belongs to
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Run the command even where it cannot be registered
    #[arg(long)]
    best_effort: bool,
    /// What to run
    #[arg(required = true, trailing_var_arg = true)]
    pub(super) command: Vec<OsString>,
}

/// What registration leaves for the command.
struct Enrolled {
    session_id: String,
    token: Token,
    token_file: PathBuf,
}

impl Arguments {
    pub(super) fn run(self, client: &Client) -> Result<u8, Failure> {
        let runtime = thread()?;
        let enrolled = match runtime.block_on(self.enrol(client)) {
            Ok(enrolled) => Some(enrolled),
            Err(failure) if self.best_effort => {
                talk(&format!(
                    "reaperd: {}; running it unregistered",
                    failure.message
                ));
                None
            }
            Err(failure) => return Err(failure),
        };
        let error = self.become_command(client.socket(), enrolled.as_ref());
        // Still here: the command does not run, so there must be no session of it.
        if let Some(Enrolled { token, .. }) = &enrolled {
            let left: Result<Value, ClientError> =
                runtime.block_on(client.delete_as(token, "/v1/sessions/me"));
            if let Err(error) = left {
                log::warn!(
                    "the session could not be withdrawn and ends with this process: {error}"
                );
            }
        }
        Err(self.not_executed(&error))
    }

    async fn enrol(&self, client: &Client) -> Result<Enrolled, Failure> {
        let token = new_token()?;
        // First, because after the registration nothing may fail any more.
        let token_file = token_file::create(&token)?;
        let session_id = format!("run-{:012x}", u64::from_be_bytes(random()?) >> 16);
        let cwd = std::env::current_dir().ok();
        let body = json!({
            "token": token.reveal().as_str(),
            "session_id": session_id,
            "mesh": self.mesh,
            "display_name": self.name(),
            "pid": process::id(),
            "cwd": cwd.as_deref().and_then(Path::to_str),
            "role": self.role,
            "groups": self.group,
        });
        let registered: Registered = client
            .post("/v1/sessions/register", &without_nulls(body))
            .await?;
        log::info!(
            "registered as {session_id}, watched by {:?}",
            registered.sources
        );
        Ok(Enrolled {
            session_id,
            token,
            token_file,
        })
    }

    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let program = Path::new(&self.command[0]);
            program
                .file_name()
                .unwrap_or(program.as_os_str())
                .to_string_lossy()
                .into_owned()
        })
    }

    /// Answers only if that failed, with why.
    fn become_command(&self, socket: &Path, enrolled: Option<&Enrolled>) -> io::Error {
        let mut command = process::Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        if let Some(Enrolled {
            session_id,
            token_file,
            ..
        }) = enrolled
        {
            // The command may stand in another folder when it asks.
            let socket = std::path::absolute(socket).unwrap_or_else(|_error| socket.to_owned());
            command
                .envs(TOKEN_FILE.map(|variable| (variable, token_file)))
                .env(SESSION_ID, session_id)
                .env(socket_path::VARIABLE, socket);
        } else {
            // Those of an outer session are not this command's.
            TOKEN_FILE.iter().chain([&SESSION_ID]).for_each(|variable| {
                command.env_remove(variable);
            });
        }
        command.exec()
    }

    fn not_executed(&self, error: &io::Error) -> Failure {
        let code = match error.kind() {
            io::ErrorKind::NotFound => exit_code::NOT_FOUND,
            // A folder of PATH that is closed to us says so even if the command is in none.
            _ if !is_somewhere(Path::new(&self.command[0])) => exit_code::NOT_FOUND,
            _ => exit_code::CANNOT_EXECUTE,
        };
        Failure {
            code,
            message: format!("cannot run {}: {error}", self.command[0].display()),
            remedy: "the command by its full path".to_owned(),
        }
    }
}

/// Whether there is such a command at all, as the system looks for it.
fn is_somewhere(command: &Path) -> bool {
    if command.components().count() > 1 || command.is_absolute() {
        return command.exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(command).exists())
}

/// Absent is not the same as null to a strict reader.
fn without_nulls(mut body: Value) -> Value {
    if let Value::Object(fields) = &mut body {
        fields.retain(|_name, value| !value.is_null());
    }
    body
}
