//! The command line: its definition, and what all commands share.
//!
//! Standard output has results only. Messages and errors go to standard error. Every error ends
//! with a line that names a remedy.

mod completions;
mod config;
mod daemon;
mod demo;
mod doctor;
pub mod exit_code;
mod failure;
mod list;
mod man;
mod metrics;
mod output;
mod reference;
mod remove;
mod run;
mod selftest;
mod status;
mod terminal;
mod test_process;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;

use clap::{Parser, Subcommand};
use reaper_registry::Token;

use crate::client::Client;
use crate::daemon::config::values;
use crate::daemon::private_memory;
use crate::daemon::runtime;
use crate::daemon::socket_path::{self, Look, Surroundings};
use crate::daemon::systemd::listen_fds;
use crate::random::Random as _;
pub use crate::sys::zeroing_allocator::ZeroingAllocator;
use crate::testkit::test_process::Kind;
use exit_code::ExitCode;
use failure::Failure;

const SOCKET_HELP: &str = "Path of the daemon's socket [default: $REAPERD_SOCKET, else $XDG_RUNTIME_DIR/reaperd/reaperd.sock]";

const RUN_HELP: &str = "\
Environment of COMMAND:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User of the daemon, if --server-uid was given
  REAPERD_SESSION_ID  ID of the session
  REAPERD_TOKEN_FILE  Path of the file with the session's token

CLAUDEMESH_IPC_TOKEN_FILE has the same value as REAPERD_TOKEN_FILE. CLAUDEMESH_IPC_TOKEN is removed.

The token file contains 64 hexadecimal digits. It is created in $XDG_RUNTIME_DIR/reaperd/tokens with \
mode 0600 and removed when the session ends.

Exit status:
  The exit status of COMMAND. If COMMAND does not run: 126 if it cannot be executed, 127 if it was \
not found, else a code listed in `reaperd --help`.";

/// Session registry that removes a session as soon as its process exits
#[derive(Debug, Parser)]
#[command(
    name = "reaperd",
    version,
    arg_required_else_help = true,
    max_term_width = 100,
    after_long_help = exit_status_help()
)]
struct Arguments {
    /// Path of the daemon's socket
    #[arg(long, global = true, value_name = "PATH", help = SOCKET_HELP, display_order = 98)]
    socket: Option<PathBuf>,
    /// Also trust a daemon of this user, by name or uid [default: this user and root]
    #[arg(
        long,
        global = true,
        value_name = "USER",
        env = "REAPERD_SERVER_UID",
        hide_env = true,
        value_parser = values::user,
        display_order = 98
    )]
    server_uid: Option<u32>,
    /// When to color the output
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        display_order = 99
    )]
    color: terminal::Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Daemon(daemon::Arguments),
    /// Run a command as a new session
    ///
    /// Registers this process as a session and then replaces it with COMMAND, so COMMAND keeps the
    /// registered pid. The session ends when the process exits.
    #[command(after_long_help = RUN_HELP)]
    Run(run::Arguments),
    /// List sessions
    Ls(list::Arguments),
    /// Show the running daemon in one screen
    ///
    /// Prints its version, processes, sessions, sources and limits, and a warning with a remedy for what
    /// does not work. Exits with status 3 if no daemon is running.
    Status(status::Arguments),
    /// Print events as they happen
    ///
    /// Prints one line for each session that is registered or removed and for each change of an
    /// exit source, until the daemon stops.
    Watch(watch::Arguments),
    /// Remove a session
    ///
    /// The process of the session is not affected.
    Rm(remove::Arguments),
    /// Print the metrics of the daemon, or write them to a file for Prometheus
    Metrics(metrics::Arguments),
    /// Check which exit sources work for this user, and how to enable the others
    Doctor(doctor::Arguments),
    /// Demonstrate session removal with a private daemon and test processes
    ///
    /// Starts a daemon in a temporary directory, registers test processes that end in different
    /// ways, and prints how and how fast each session was removed. Takes a few seconds. Nothing is
    /// installed, and everything is removed at the end.
    Demo(demo::Arguments),
    /// Test the exit sources of this machine with real processes
    ///
    /// Runs test processes that end in different ways and reports which exits each source detected,
    /// which it missed, and how long detection took. Takes about 30 seconds and needs neither a
    /// daemon nor root. Sources that do not work for this user are reported as not tested.
    ///
    /// To start a single test process, see `reaperd test-process --help`.
    Selftest(selftest::Arguments),
    /// Show, check or create the configuration of the daemon
    ///
    /// A value comes from the default, the file of the system, the file of the user, the environment
    /// (`REAPERD_TTL` for --ttl) or a flag; a later one wins. `kill -HUP`, or `systemctl reload`, makes a running daemon read its configuration again.
    Config(config::Arguments),
    /// Print a new random session token
    Token,
    /// Print the version
    Version,
    /// Print a script that completes commands and options in a shell
    ///
    /// For bash: `reaperd completions bash > ~/.local/share/bash-completion/completions/reaperd`. Packages
    /// of this program install the scripts.
    Completions(completions::Arguments),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::Arguments),
    /// Run a test process that ends in a given way
    #[command(hide = true)]
    TestProcess {
        #[command(subcommand)]
        kind: Kind,
    },
}

/// Parses the command line of this process and runs the command.
///
/// A daemon closes its memory to others first: what happens before that is a window.
pub fn main() -> process::ExitCode {
    if starts_daemon(std::env::args_os()) {
        // A failure is logged by the daemon, which repeats it.
        private_memory::protect().unwrap_or_default();
    }
    if let Some(color) = terminal::Color::on(std::env::args_os()) {
        color.apply();
    }
    match Arguments::try_parse() {
        Ok(arguments) => process::ExitCode::from(report(arguments.dispatch())),
        Err(error) => process::ExitCode::from(report_parse_error(&error)),
    }
}

/// Returns whether this command line runs the daemon, without parsing it: the first argument that is
/// neither an option nor the value of one names the command.
fn starts_daemon(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut arguments = arguments.skip(1);
    while let Some(argument) = arguments.next() {
        if ["--socket", "--server-uid", "--color"]
            .iter()
            .any(|it| argument == *it)
        {
            arguments.next();
        } else if !argument.as_encoded_bytes().starts_with(b"-") {
            return argument == "daemon";
        }
    }
    false
}

impl Arguments {
    /// Runs the command and returns its exit code.
    fn dispatch(self) -> Result<u8, Failure> {
        self.color.apply();
        // Before this process opens a descriptor itself.
        let passed = match self.command {
            Command::Daemon(_) => listen_fds::take(),
            _ => Vec::new(),
        };
        // A test process must have no logger and no runtime.
        if let Command::TestProcess { kind } = self.command {
            return test_process::run(kind);
        }
        match &self.command {
            // It starts its log itself, once it knows its options.
            Command::Daemon(_) => {}
            _ => output::start_log(),
        }
        let surroundings = Surroundings::of_this_process();
        let socket = self
            .socket
            .clone()
            .or_else(|| self.command.configured_socket());
        let client = client(socket.as_deref(), self.server_uid, &surroundings);
        let code = match self.command {
            Command::Daemon(arguments) => {
                let explained = |failure: Failure| failure.explained_by(&surroundings);
                let ended = arguments.run(self.socket, self.server_uid, passed);
                return ended.map_err(explained);
            }
            Command::Config(arguments) => arguments.run(self.socket),
            Command::Run(arguments) => arguments.run(&client),
            Command::Ls(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Status(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Watch(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Rm(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Metrics(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Doctor(arguments) => multi_thread()?.block_on(arguments.run(&client)),
            Command::Demo(arguments) => multi_thread()?.block_on(arguments.run()),
            Command::Selftest(arguments) => arguments.run(),
            Command::Completions(arguments) => arguments.run(),
            Command::Man(arguments) => arguments.run(),
            Command::Token => token(),
            Command::Version => version(),
            Command::TestProcess { kind } => return test_process::run(kind),
        };
        code.map(ExitCode::number)
            .map_err(|failure| failure.explained_by(&surroundings))
    }
}

/// The sockets of this system.
struct ThisSystem;

impl Look for ThisSystem {
    fn is_trusted(&self, path: &Path) -> bool {
        crate::client::is_in_folder_of_caller(path)
    }

    /// Sends nothing.
    fn listens(&self, path: &Path) -> bool {
        UnixStream::connect(path).is_ok()
    }
}

impl Command {
    /// Returns the socket of the configuration, for a command that connects to it.
    fn configured_socket(&self) -> Option<PathBuf> {
        match self {
            Self::Run(_)
            | Self::Ls(_)
            | Self::Status(_)
            | Self::Watch(_)
            | Self::Rm(_)
            | Self::Metrics(_)
            | Self::Doctor(_) => {}
            _ => return None,
        }
        config::socket_for_clients()
    }
}

/// Returns the client of all commands.
fn client(socket: Option<&Path>, server_uid: Option<u32>, surroundings: &Surroundings) -> Client {
    let socket = socket_path::resolve_for_client(socket, surroundings, &ThisSystem);
    let mut client = Client::new(socket.path);
    if socket.is_in_temporary_folder {
        client = client.in_checked_folder();
    }
    match server_uid {
        Some(uid) => client.with_server_uid(uid),
        None => client,
    }
}

/// Creates a runtime for commands that send a request and print the response.
fn single_thread() -> Result<tokio::runtime::Runtime, Failure> {
    runtime::build(tokio::runtime::Builder::new_current_thread()).map_err(no_runtime)
}

/// Creates a runtime for commands whose tasks must not delay each other.
fn multi_thread() -> Result<tokio::runtime::Runtime, Failure> {
    runtime::build(tokio::runtime::Builder::new_multi_thread()).map_err(no_runtime)
}

fn no_runtime(error: io::Error) -> Failure {
    Failure::new(
        format!("cannot start the async runtime: {error}"),
        "raise the limits on threads and open files (ulimit -u, ulimit -n)",
    )
}

fn token() -> Result<ExitCode, Failure> {
    writeln!(io::stdout(), "{}", new_token()?.reveal().as_str()).map_err(Failure::output)?;
    Ok(ExitCode::Success)
}

fn version() -> Result<ExitCode, Failure> {
    writeln!(io::stdout(), "reaperd {}", env!("CARGO_PKG_VERSION")).map_err(Failure::output)?;
    Ok(ExitCode::Success)
}

/// Creates a token from the system's random source.
fn new_token() -> Result<Token, Failure> {
    Token::random().map_err(no_random)
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| no_random(error.into()))?;
    Ok(bytes)
}

fn no_random(error: io::Error) -> Failure {
    Failure::new(
        format!("cannot get random bytes: {error}"),
        "reaperd doctor",
    )
}

/// Prints the failure, if there is one, and returns the exit code.
fn report(result: Result<u8, Failure>) -> u8 {
    match result {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.code.number()
        }
    }
}

/// Prints help and version on standard output and parse errors on standard error.
fn report_parse_error(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        let printed = error.print().map_err(Failure::output);
        return report(printed.map(|()| ExitCode::Success.number()));
    }
    let text = error.render().ansi().to_string();
    // The `try:` line replaces clap's last line.
    let text = text
        .split("\n\nFor more information")
        .next()
        .unwrap_or(&text);
    let command = std::env::args_os()
        .skip(1)
        .find(is_command)
        .map(|name| format!(" {}", name.display()))
        .unwrap_or_default();
    output::print_styled(&format!(
        "{}\n  try: reaperd{command} --help",
        text.trim_end()
    ));
    ExitCode::Usage.number()
}

fn is_command(argument: &OsString) -> bool {
    use clap::CommandFactory as _;
    argument
        .to_str()
        .is_some_and(|name| Arguments::command().find_subcommand(name).is_some())
}

/// The table of exit codes for `reaperd --help`.
fn exit_status_help() -> String {
    let lines = ExitCode::ALL
        .iter()
        .map(|(code, description)| format!("\n  {:<3}  {description}", code.number()));
    format!("Exit status:{}", lines.collect::<String>())
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
                panic!("{line} is not parsed as run");
            };
            assert_eq!(run.command, ["ls", "--json"]);
        }
    }

    #[test]
    fn test_processes_are_started_by_a_command_that_exists() {
        let line = std::iter::once("reaperd".to_owned()).chain(Kind::Sleep.arguments());
        let command = Arguments::parse_from(line).command;
        assert!(matches!(
            command,
            Command::TestProcess { kind: Kind::Sleep }
        ));
    }

    #[test]
    fn a_daemon_is_recognised_before_its_command_line_is_parsed() {
        for (line, expected) in [
            ("reaperd daemon --ttl never", true),
            ("reaperd --socket run daemon", true),
            ("reaperd --server-uid 7 daemon", true),
            ("reaperd --socket=x --color never daemon", true),
            ("reaperd run -- daemon", false),
            ("reaperd ls --socket daemon", false),
            ("reaperd --socket daemon", false),
            ("reaperd", false),
        ] {
            let words = line.split(' ').map(OsString::from);
            assert_eq!(starts_daemon(words), expected, "{line}");
        }
    }

    #[test]
    fn the_exit_codes_in_the_help_are_distinct_and_sorted() {
        let numbers = ExitCode::ALL.map(|(code, _)| code.number());
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }
}
