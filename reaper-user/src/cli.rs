//! The command line: its definition, and what all commands share.
//!
//! Results go to standard output and nothing else does; talk and errors go to standard error. Every
//! error ends with a line that says what to try.

mod daemon;
mod demo;
mod doctor;
pub mod exit_code;
mod failure;
mod list;
mod output;
mod remove;
mod run;
mod selftest;
mod test_process;
pub mod values;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anstream::ColorChoice;
use clap::{Parser, Subcommand, ValueEnum};
use reaper_registry::Token;

use crate::client::Client;
use crate::daemon::harden;
use crate::daemon::runtime;
use crate::daemon::socket_path::{self, Surroundings};
use crate::testkit::test_process::Kind;
use crate::watch::fd_budget;
use failure::Failure;

const SOCKET_HELP: &str =
    "The daemon's socket [default: $REAPERD_SOCKET, else $XDG_RUNTIME_DIR/reaperd/reaperd.sock]";

const RUN_HELP: &str = "\
COMMAND finds the path of the token file in REAPERD_TOKEN_FILE and CLAUDEMESH_IPC_TOKEN_FILE, its
session in REAPERD_SESSION_ID and the daemon in REAPERD_SOCKET. The file holds 64 hex digits, belongs
to this user alone (mode 0600, below $XDG_RUNTIME_DIR/reaperd/tokens) and is removed when the session
ends. A token in CLAUDEMESH_IPC_TOKEN is not passed on.

Exits as COMMAND does; with 126 where COMMAND cannot be executed, 127 where it is not found, 3 where
there is no daemon, 2 where a flag cannot be used.";

/// A session registry that never shows a ghost.
#[derive(Debug, Parser)]
#[command(
    name = "reaperd",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Arguments {
    /// The daemon's socket
    #[arg(long, global = true, value_name = "PATH", help = SOCKET_HELP, display_order = 98)]
    socket: Option<PathBuf>,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        display_order = 99
    )]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon, in the foreground
    Daemon(daemon::Arguments),
    /// Register this process, then become COMMAND: same pid, token in a file for it
    #[command(after_long_help = RUN_HELP)]
    Run(run::Arguments),
    /// List the sessions
    Ls(list::Arguments),
    /// Show what happens, as it happens
    Watch(watch::Arguments),
    /// Remove a session
    Rm(remove::Arguments),
    /// Say what works on this machine for this user, what does not, and what would mend it
    Doctor(doctor::Arguments),
    /// Show all of it on a private daemon and processes that die in different ways
    Demo(demo::Arguments),
    /// Let real processes end in every way we know, and say what each source of exits saw of it
    ///
    /// Takes about half a minute and needs no daemon and no root; what a source lacks it says. The
    /// test processes can be had one by one, for trying other tools on them: `reaperd test-process --help`.
    Selftest(selftest::Arguments),
    /// Print a new session token
    Token,
    /// Print the version
    Version,
    /// Be a process that ends in a chosen way, for the demo and tests
    #[command(hide = true)]
    TestProcess {
        #[command(subcommand)]
        kind: Kind,
    },
}

/// Parses the command line of this process and does what it says.
pub fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => ExitCode::from(finish(arguments.dispatch())),
        Err(error) => ExitCode::from(usage(&error)),
    }
}

impl Arguments {
    fn dispatch(self) -> Result<u8, Failure> {
        match self.color {
            Color::Auto => {}
            Color::Always => ColorChoice::Always.write_global(),
            Color::Never => ColorChoice::Never.write_global(),
        }
        // A test process is what its kind says and nothing else: no logger, no runtime.
        if let Command::TestProcess { kind } = self.command {
            return test_process::run(kind);
        }
        let level = if matches!(self.command, Command::Daemon(_)) {
            "info"
        } else {
            "warn"
        };
        env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
        let surroundings = Surroundings::of_this_process();
        let socket = socket_path::resolve(self.socket.as_deref(), &surroundings);
        let client = Client::new(&socket);
        match self.command {
            Command::Daemon(arguments) => {
                harden::keep_only_what_sources_need();
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                builder.worker_threads(fd_budget::worker_threads());
                let runtime = runtime::build(builder).map_err(no_runtime)?;
                runtime.block_on(arguments.run(socket))
            }
            Command::Run(arguments) => arguments.run(&client),
            Command::Ls(arguments) => thread()?.block_on(arguments.run(&client)),
            Command::Watch(arguments) => thread()?.block_on(arguments.run(&client)),
            Command::Rm(arguments) => thread()?.block_on(arguments.run(&client)),
            Command::Doctor(arguments) => threads()?.block_on(arguments.run(&client)),
            Command::Demo(arguments) => threads()?.block_on(arguments.run()),
            Command::Selftest(arguments) => arguments.run(),
            Command::Token => token(),
            Command::Version => version(),
            Command::TestProcess { kind } => test_process::run(kind),
        }
    }
}

/// A runtime for commands that ask and print.
fn thread() -> Result<tokio::runtime::Runtime, Failure> {
    runtime::build(tokio::runtime::Builder::new_current_thread()).map_err(no_runtime)
}

/// A runtime for work that must not wait for other work.
fn threads() -> Result<tokio::runtime::Runtime, Failure> {
    runtime::build(tokio::runtime::Builder::new_multi_thread()).map_err(no_runtime)
}

fn no_runtime(error: io::Error) -> Failure {
    Failure::new(
        format!("the runtime does not start: {error}"),
        "raise the limits of threads and of open descriptors (ulimit -u, ulimit -n)",
    )
}

fn token() -> Result<u8, Failure> {
    writeln!(io::stdout(), "{}", new_token()?.reveal().as_str()).map_err(Failure::output)?;
    Ok(exit_code::DONE)
}

fn version() -> Result<u8, Failure> {
    writeln!(io::stdout(), "reaperd {}", env!("CARGO_PKG_VERSION")).map_err(Failure::output)?;
    Ok(exit_code::DONE)
}

/// A token from the system's random source.
fn new_token() -> Result<Token, Failure> {
    Ok(Token::from_bytes(random()?))
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Failure {
        code: exit_code::FAILED,
        message: format!("no random bytes: {error}"),
        remedy: "reaperd doctor".to_owned(),
    })?;
    Ok(bytes)
}

/// Tells of a failure, if there is one, and answers with the exit code.
fn finish(result: Result<u8, Failure>) -> u8 {
    match result {
        Ok(code) => code,
        Err(failure) => {
            failure.tell();
            failure.code
        }
    }
}

/// What clap has to say: help and version on standard output, mistakes on standard error.
fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        return finish(
            error
                .print()
                .map(|()| exit_code::DONE)
                .map_err(Failure::output),
        );
    }
    let text = error.render().ansi().to_string();
    // clap's own last line says the same as ours in other words.
    let text = text
        .split("\n\nFor more information")
        .next()
        .unwrap_or(&text);
    let command = std::env::args_os()
        .skip(1)
        .find(is_command)
        .map(|name| format!(" {}", name.display()))
        .unwrap_or_default();
    output::talk(&format!(
        "{}\n  try: reaperd{command} --help",
        text.trim_end()
    ));
    exit_code::USAGE
}

fn is_command(argument: &OsString) -> bool {
    use clap::CommandFactory as _;
    argument
        .to_str()
        .is_some_and(|name| Arguments::command().find_subcommand(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn run_takes_the_rest_of_the_line_with_and_without_dashes() {
        for line in [
            "reaperd run --name n -- ls --json",
            "reaperd run --name n ls --json",
        ] {
            let Command::Run(run) = Arguments::parse_from(line.split(' ')).command else {
                panic!("{line} is no run");
            };
            assert_eq!(run.command, ["ls", "--json"]);
        }
    }

    #[test]
    fn unusable_flag_values_are_usage_errors() {
        for line in [
            "reaperd daemon --sweep-interval soon",
            "reaperd daemon --sources netlnik",
            "reaperd daemon --require pidfd,none",
            "reaperd daemon --max-sessions 0",
            "reaperd daemon --register-policy everyone",
            "reaperd run",
            "reaperd run -g x true",
            "reaperd rm",
            "reaperd rm s --token-file f",
            "reaperd ls --pid x",
        ] {
            assert!(
                Arguments::try_parse_from(line.split(' ')).is_err(),
                "{line}"
            );
        }
    }
}
