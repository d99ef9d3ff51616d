//! What a command line that failed, or cannot be parsed, prints.

use std::ffi::OsString;

use clap::CommandFactory as _;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output;

/// Prints the failure, if there is one, and returns the exit code.
pub(super) fn report(result: Result<u8, Failure>) -> u8 {
    match result {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.code.number()
        }
    }
}

/// Prints help and version on standard output and parse errors on standard error.
pub(super) fn parse_error(error: &clap::Error) -> u8 {
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
    argument
        .to_str()
        .is_some_and(|name| super::Arguments::command().find_subcommand(name).is_some())
}
