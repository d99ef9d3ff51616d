//! The command line: its definition, and what all commands share.
//!
//! Standard output has results only. Messages and errors go to standard error. Every error ends
//! with a line that names a remedy.

mod completions;
mod config;
mod daemon;
mod demo;
mod details;
mod doctor;
mod end_signals;
pub mod exit_code;
mod failure;
mod help;
mod identify;
mod list;
mod lookup;
mod man;
mod metrics;
mod output;
mod progress;
mod reference;
mod register;
mod remove;
mod report;
mod run;
mod selection;
mod selftest;
mod show;
mod status;
mod terminal;
mod test_process;
mod top;
mod version;
mod wait;
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
    #[command(after_long_help = help::DAEMON)]
    Daemon(daemon::Arguments),
    /// Run a command as a new session
    ///
    /// Registers this process as a session and then replaces it with COMMAND, so COMMAND keeps the
    /// registered pid. The session ends when the process exits.
    #[command(after_long_help = help::RUN)]
    Run(run::Arguments),
    /// Register a process that runs already as a session
    #[command(after_long_help = register::HELP)]
    Register(register::Arguments),
    /// Let a session last longer
    #[command(after_long_help = register::RENEW_HELP)]
    Renew(register::Renewal),
    /// List sessions
    #[command(after_long_help = list::HELP)]
    Ls(list::Arguments),
    /// Show one session
    #[command(after_long_help = show::HELP)]
    Show(show::Arguments),
    /// Find the session that a process or one of its ancestors belongs to
    #[command(after_long_help = identify::HELP)]
    Identify(identify::Arguments),
    /// Show the running daemon in one screen
    ///
    /// Prints its version, processes, sessions, sources and limits, and a warning with a remedy for what
    /// does not work. Exits with status 3 if no daemon is running.
    #[command(after_long_help = help::STATUS)]
    Status(status::Arguments),
    /// Print events as they happen
    ///
    /// Prints one line for each session that is registered or removed and for each change of an
    /// exit source, until the daemon stops, or with --follow across its restarts.
    #[command(after_long_help = watch::HELP)]
    Watch(watch::Arguments),
    /// Show sessions, sources, rates and losses on a screen that follows them
    #[command(after_long_help = top::HELP)]
    Top(top::Arguments),
    /// Wait until a session or a process has ended, and exit as it did
    ///
    /// Waits for any process, not only for children, and needs no daemon for it.
    #[command(after_long_help = wait::HELP)]
    Wait(wait::Arguments),
    /// Remove a session
    ///
    /// The process of the session is not affected.
    #[command(after_long_help = help::RM)]
    Rm(remove::Arguments),
    /// Print the metrics of the daemon, or write them to a file for Prometheus
    #[command(after_long_help = help::METRICS)]
    Metrics(metrics::Arguments),
    /// Check which exit sources work for this user, and how to enable the others
    #[command(after_long_help = help::DOCTOR)]
    Doctor(doctor::Arguments),
    /// Demonstrate session removal with a private daemon and test processes
    ///
    /// Starts a daemon in a temporary directory, registers test processes that end in different
    /// ways, and prints how and how fast each session was removed. Takes a few seconds. Nothing is
    /// installed, and everything is removed at the end.
    #[command(after_long_help = help::DEMO)]
    Demo(demo::Arguments),
    /// Test the exit sources of this machine with real processes
    ///
    /// Runs test processes that end in different ways and reports which exits each source detected,
    /// which it missed, and how long detection took. Takes about 30 seconds and needs neither a
    /// daemon nor root. Sources that do not work for this user are reported as not tested.
    ///
    /// To start a single test process, see `reaperd test-process --help`.
    #[command(after_long_help = help::SELFTEST)]
    Selftest(selftest::Arguments),
    /// Show, check or create the configuration of the daemon
    ///
    /// A value comes from the default, the file of the system, the file of the user, the environment
    /// (`REAPERD_TTL` for --ttl) or a flag; a later one wins. `kill -HUP`, or `systemctl reload`, makes a running daemon read its configuration again.
    #[command(after_long_help = help::CONFIG)]
    Config(config::Arguments),
    /// Print a new random session token
    #[command(after_long_help = help::TOKEN)]
    Token,
    /// Print the version
    #[command(after_long_help = version::HELP)]
    Version(version::Arguments),
    /// Print a script that completes commands and options in a shell
    ///
    /// For bash: `reaperd completions bash > ~/.local/share/bash-completion/completions/reaperd`. Packages
    /// of this program install the scripts.
    #[command(after_long_help = help::COMPLETIONS)]
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
        Ok(arguments) => process::ExitCode::from(report::report(arguments.dispatch())),
        Err(error) => process::ExitCode::from(report::parse_error(&error)),
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
        let _not_for_commands = match &self.command {
            Command::Watch(arguments) => arguments.take_descriptors(),
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
            Command::Register(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Renew(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Ls(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Show(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Identify(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Status(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Watch(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Top(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Wait(arguments) => {
                let ended = single_thread()?.block_on(arguments.run(&client));
                return ended.map_err(|failure| failure.explained_by(&surroundings));
            }
            Command::Rm(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Metrics(arguments) => single_thread()?.block_on(arguments.run(&client)),
            Command::Doctor(arguments) => multi_thread()?.block_on(arguments.run(&client)),
            Command::Demo(arguments) => multi_thread()?.block_on(arguments.run()),
            Command::Selftest(arguments) => arguments.run(),
            Command::Completions(arguments) => arguments.run(),
            Command::Man(arguments) => arguments.run(),
            Command::Token => token(),
            Command::Version(arguments) => single_thread()?.block_on(arguments.run(&client)),
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
            | Self::Register(_)
            | Self::Renew(_)
            | Self::Ls(_)
            | Self::Show(_)
            | Self::Identify(_)
            | Self::Version(_)
            | Self::Status(_)
            | Self::Watch(_)
            | Self::Top(_)
            | Self::Wait(_)
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

/// The table of exit codes for `reaperd --help`.
fn exit_status_help() -> String {
    let lines = ExitCode::ALL
        .iter()
        .map(|(code, description)| format!("\n  {:<3}  {description}", code.number()));
    format!("Exit status:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests;
