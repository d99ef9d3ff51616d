//! `reaperd run`: registers this very process, then becomes the command.

mod owner;
mod token_file;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::{io, process};

use reaper_registry::Token;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::token_file::TokenFile;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::print_message;
use super::{new_token, random, single_thread};
use crate::client::{Client, ClientError, Registered};
use crate::daemon::socket_path::{self, Surroundings};
use crate::sys::as_started;
use crate::text::{self, GROUP_MAX, GROUPS_MAX, NAME_MAX, PATH_MAX};

/// The variables that lead a child to its token; the first is the one existing clients know.
const TOKEN_FILE: [&str; 2] = ["CLAUDEMESH_IPC_TOKEN_FILE", "REAPERD_TOKEN_FILE"];
/// A token itself, which existing clients take before the file. Never ours, so never the command's.
const TOKEN: &str = "CLAUDEMESH_IPC_TOKEN";
const SESSION_ID: &str = "REAPERD_SESSION_ID";
/// The name of a command that has none that can be shown.
const NAMELESS: &str = "command";

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
    runtime: Runtime,
    session_id: String,
    token: Token,
    token_file: TokenFile,
}

impl Arguments {
    pub(super) fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        self.check_flags()?;
        // The command may stand in another folder when it asks.
        let socket = client.socket();
        let socket = std::path::absolute(socket).unwrap_or_else(|_error| socket.to_owned());
        let enrolled = match self.enrol(client) {
            Ok(enrolled) => Some(enrolled),
            Err(failure) if self.best_effort => {
                print_message(&format!(
                    "reaperd: {}; running it unregistered",
                    failure.message
                ));
                None
            }
            Err(failure) => return Err(failure),
        };
        let error = self.become_command(&socket, enrolled.as_ref());
        // Still here: the command does not run, so there must be no session of it.
        if let Some(enrolled) = enrolled {
            enrolled.withdraw(client);
        }
        Err(self.not_executed(&error))
    }

    /// What the user typed is refused where it cannot be used; what is derived is made to fit.
    fn check_flags(&self) -> Result<(), Failure> {
        let names = [
            ("--name", self.name.as_deref()),
            ("--mesh", Some(&*self.mesh)),
        ];
        for (flag, text) in names {
            if text.is_some_and(|text| text.trim().is_empty()) {
                return Err(unusable(flag, "must not be empty"));
            }
        }
        let groups = self.group.iter().map(|group| ("--group", group, GROUP_MAX));
        let texts = [
            ("--name", self.name.as_ref()),
            ("--mesh", Some(&self.mesh)),
            ("--role", self.role.as_ref()),
        ]
        .into_iter()
        .filter_map(|(flag, text)| Some((flag, text?, NAME_MAX)));
        for (flag, text, max) in texts.chain(groups) {
            text::check(text, max).map_err(|error| unusable(flag, &error.to_string()))?;
        }
        if self.group.len() > GROUPS_MAX {
            let rule = format!("must not be given more than {GROUPS_MAX} times");
            return Err(unusable("--group", &rule));
        }
        Ok(())
    }

    fn enrol(&self, client: &Client) -> Result<Enrolled, Failure> {
        let runtime = single_thread()?;
        let token = new_token()?;
        let id = u64::from_be_bytes(random()?);
        let session_id = format!("{}{id:016x}", token_file::PREFIX);
        // First, because after the registration nothing may fail any more.
        let surroundings = Surroundings::of_this_process();
        let token_file = TokenFile::create(&surroundings, &session_id, &token)?;
        let body = without_nulls(self.registration(&session_id, &token, &token_file.path()));
        let registering = client.post_if_answered("/v1/sessions/register", &body);
        let registered: Registered = runtime
            .block_on(registering)
            .inspect_err(|_error| token_file.remove())?;
        log::info!(
            "registered as {session_id}, watched by {:?}",
            registered.sources
        );
        // Any number will do to start from.
        let [.., a, b, c, d] = id.to_le_bytes();
        let start = u32::from_le_bytes([a, b, c, d]);
        token_file.remove_leftovers(start);
        Ok(Enrolled {
            runtime,
            session_id,
            token,
            token_file,
        })
    }

    fn registration(&self, session_id: &str, token: &Token, token_file: &Path) -> Value {
        // A path that was changed would lead elsewhere, so one that cannot be sent is left out.
        let sendable = |path: &Path| {
            let path = path
                .to_str()
                .filter(|path| text::check(path, PATH_MAX).is_ok());
            path.map(str::to_owned)
        };
        let cwd: Option<PathBuf> = std::env::current_dir().ok();
        json!({
            "token": token.reveal().as_str(),
            "session_id": session_id,
            "mesh": self.mesh,
            "display_name": self.name(),
            "pid": process::id(),
            "cwd": cwd.as_deref().and_then(sendable),
            "role": self.role,
            "groups": self.group,
            "ttl": "process",
            "token_file": sendable(token_file),
            "if_answered": true,
        })
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

    /// Answers only if that failed, with why.
    fn become_command(&self, socket: &Path, enrolled: Option<&Enrolled>) -> io::Error {
        let mut command = process::Command::new(&self.command[0]);
        command.args(&self.command[1..]).env_remove(TOKEN);
        if let Some(Enrolled {
            session_id,
            token_file,
            ..
        }) = enrolled
        {
            let token_file = token_file.path();
            command
                .envs(TOKEN_FILE.map(|variable| (variable, &token_file)))
                .env(SESSION_ID, session_id)
                .env(socket_path::VARIABLE, socket);
        } else {
            // Those of an outer session are not this command's.
            TOKEN_FILE.iter().chain([&SESSION_ID]).for_each(|variable| {
                command.env_remove(variable);
            });
        }
        as_started::pass_on(&mut command);
        command.exec()
    }

    fn not_executed(&self, error: &io::Error) -> Failure {
        let code = match error.kind() {
            io::ErrorKind::NotFound => ExitCode::CommandNotFound,
            // A folder of PATH that is closed to us says so even if the command is in none.
            _ if !is_somewhere(Path::new(&self.command[0])) => ExitCode::CommandNotFound,
            _ => ExitCode::CannotExecute,
        };
        Failure {
            code,
            message: format!("cannot run {}: {error}", self.command[0].display()),
            remedy: "the command by its full path".to_owned(),
        }
    }
}

impl Enrolled {
    fn withdraw(self, client: &Client) {
        let left: Result<Value, ClientError> = self
            .runtime
            .block_on(client.delete_as(&self.token, "/v1/sessions/me"));
        if let Err(error) = left {
            log::warn!("the session could not be withdrawn and ends with this process: {error}");
        }
        self.token_file.remove();
    }
}

fn unusable(flag: &str, rule: &str) -> Failure {
    Failure {
        code: ExitCode::Usage,
        message: format!("{flag} {rule}"),
        remedy: format!("another text for {flag}"),
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
