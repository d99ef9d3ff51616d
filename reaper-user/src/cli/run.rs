//! `reaperd run`: registers this process as a session, then executes the command in it.

mod owner;
pub(super) mod token_file;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::{io, process};

use reaper_registry::Token;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::token_file::TokenFile;
use super::details::{Details, warn_of};
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::print_message;
use super::{new_token, random, single_thread};
use crate::client::{Client, ClientError, Registered};
use crate::daemon::socket_path::{self, Surroundings};
use crate::sys::as_started;
use crate::text::{self, NAME_MAX, PATH_MAX};

/// The variables with the path of the token file. Existing clients read the first one.
const TOKEN_FILE: [&str; 2] = ["CLAUDEMESH_IPC_TOKEN_FILE", "REAPERD_TOKEN_FILE"];
/// A variable with a token, which existing clients prefer to the file. It would be the token of
/// another session, so it is removed.
const TOKEN: &str = "CLAUDEMESH_IPC_TOKEN";
/// The user of the daemon, for further commands.
const SERVER_UID: &str = "REAPERD_SERVER_UID";
const SESSION_ID: &str = "REAPERD_SESSION_ID";
/// The display name if the name of the command has no printable character.
const NAMELESS: &str = "command";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Display name of the session [default: name of the command]
    #[arg(long)]
    name: Option<String>,
    /// ID of the session, which replaces the one that has it [default: run- and random digits]
    #[arg(long, value_name = "ID")]
    session_id: Option<String>,
    #[command(flatten)]
    details: Details,
    /// Run the command even if the registration fails
    #[arg(long)]
    best_effort: bool,
    /// Command to run, with its arguments
    #[arg(required = true, trailing_var_arg = true)]
    pub(super) command: Vec<OsString>,
}

/// A successful registration.
struct Registration {
    runtime: Runtime,
    session_id: String,
    token: Token,
    token_file: TokenFile,
}

impl Arguments {
    pub(super) fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        // Derived values are adjusted instead.
        let texts = [
            ("--name", self.name.as_deref()),
            ("--session-id", self.session_id.as_deref()),
        ];
        self.details.check("run", &texts)?;
        // The command may change its working directory.
        let socket = client.socket();
        let socket = std::path::absolute(socket).unwrap_or_else(|_error| socket.to_owned());
        let registration = match self.register(client) {
            Ok(registration) => Some(registration),
            Err(failure) if self.best_effort => {
                print_message(&format!(
                    "reaperd: {}; running the command without a session",
                    failure.message
                ));
                None
            }
            Err(failure) => return Err(failure),
        };
        let error = self.exec(&socket, client.server_uid(), registration.as_ref());
        // exec failed: the command does not run, so its session must be removed.
        if let Some(registration) = registration {
            registration.remove(client);
        }
        Err(self.not_executed(&error))
    }

    fn register(&self, client: &Client) -> Result<Registration, Failure> {
        // The token file is in the same folder by default. This error says more.
        client.check_folder()?;
        let runtime = single_thread()?;
        let token = new_token()?;
        let id = u64::from_be_bytes(random()?);
        // The name of the file is never given by the user: it must not leave its folder.
        let own_id = format!("{}{id:016x}", token_file::PREFIX);
        // Created first, because nothing may fail after the registration.
        let surroundings = Surroundings::of_this_process();
        let token_file = TokenFile::create(&surroundings, &own_id, &token)?;
        let session_id = self.session_id.clone().unwrap_or(own_id);
        let body = self.request_body(&session_id, &token, &token_file.path());
        let registering = client.post_if_answered("/v1/sessions/register", &body);
        let registered: Registered = runtime
            .block_on(registering)
            .inspect_err(|_error| token_file.remove())?;
        warn_of(&registered.ignored);
        log::info!(
            "registered session {session_id}, watched by {:?}",
            registered.sources
        );
        // Any starting point is fine.
        let [.., a, b, c, d] = id.to_le_bytes();
        let start = u32::from_le_bytes([a, b, c, d]);
        token_file.remove_leftovers(start);
        Ok(Registration {
            runtime,
            session_id,
            token,
            token_file,
        })
    }

    fn request_body(&self, session_id: &str, token: &Token, token_file: &Path) -> Value {
        // A path that cannot be sent unchanged is left out.
        let sendable = |path: &Path| {
            let path = path
                .to_str()
                .filter(|path| text::check(path, PATH_MAX).is_ok());
            path.map(str::to_owned)
        };
        let cwd: Option<PathBuf> = std::env::current_dir().ok();
        let mut body = json!({
            "token": token.reveal().as_str(),
            "session_id": session_id,
            "mesh": self.details.mesh,
            "display_name": self.name(),
            "pid": process::id(),
            "cwd": cwd.as_deref().and_then(sendable),
            "role": self.details.role,
            "groups": self.details.group,
            "labels": self.details.labels(),
            "ttl": self.details.ttl.as_json(),
            "token_file": sendable(token_file),
            "if_answered": true,
        });
        if let Value::Object(fields) = &mut body {
            // A strict parser does not treat null as absent.
            fields.retain(|_name, value| !value.is_null());
        }
        body
    }

    fn name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let program = Path::new(&self.command[0]);
        let name = program.file_name().unwrap_or(program.as_os_str());
        let name = name.to_string_lossy();
        let name = text::clean(&name, NAME_MAX);
        if name.is_empty() {
            return NAMELESS.to_owned();
        }
        name.into_owned()
    }

    /// Executes the command. Returns only on failure.
    fn exec(
        &self,
        socket: &Path,
        server_uid: Option<u32>,
        registration: Option<&Registration>,
    ) -> io::Error {
        let mut command = process::Command::new(&self.command[0]);
        command.args(&self.command[1..]).env_remove(TOKEN);
        if let Some(Registration {
            session_id,
            token_file,
            ..
        }) = registration
        {
            let token_file = token_file.path();
            command
                .envs(TOKEN_FILE.map(|variable| (variable, &token_file)))
                .env(SESSION_ID, session_id)
                .env(socket_path::VARIABLE, socket)
                .envs(server_uid.map(|uid| (SERVER_UID, uid.to_string())));
        } else {
            // They would belong to the session of an outer `run`.
            TOKEN_FILE.iter().chain([&SESSION_ID]).for_each(|variable| {
                command.env_remove(variable);
            });
        }
        as_started::pass_on(&mut command);
        command.exec()
    }

    fn not_executed(&self, error: &io::Error) -> Failure {
        // An inaccessible directory in PATH gives EACCES even if no directory has the command.
        let is_missing =
            error.kind() == io::ErrorKind::NotFound || !exists(Path::new(&self.command[0]));
        let (code, remedy) = if is_missing {
            (
                ExitCode::CommandNotFound,
                "use the full path of the command",
            )
        } else {
            (
                ExitCode::CannotExecute,
                "check that the file is a program and has execute permission",
            )
        };
        Failure {
            code,
            message: format!("cannot run {}: {error}", self.command[0].display()),
            remedy: remedy.to_owned(),
        }
    }
}

impl Registration {
    fn remove(self, client: &Client) {
        let removed: Result<Value, ClientError> = self
            .runtime
            .block_on(client.delete_as(&self.token, "/v1/sessions/me"));
        if let Err(error) = removed {
            log::warn!("cannot remove the session; it ends when this process exits: {error}");
        }
        self.token_file.remove();
    }
}

/// Whether the command exists, in PATH or at its path.
fn exists(command: &Path) -> bool {
    if command.components().count() > 1 || command.is_absolute() {
        return command.exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(command).exists())
}
