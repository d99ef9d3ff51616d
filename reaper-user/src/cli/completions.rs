//! `reaperd completions`: the completion script of a shell, from the definition of the command line.

use std::io::{self, Write as _};

use clap::{CommandFactory as _, ValueEnum};
use clap_complete::{Shell, generate};

use super::exit_code::ExitCode;
use super::failure::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Shell to print the script for
    shell: Script,
}

/// The shells with a script that is tested.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Script {
    Bash,
    Zsh,
    Fish,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let shell = match self.shell {
            Script::Bash => Shell::Bash,
            Script::Zsh => Shell::Zsh,
            Script::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        generate(
            shell,
            &mut super::Arguments::command(),
            "reaperd",
            &mut script,
        );
        io::stdout().write_all(&script).map_err(Failure::output)?;
        Ok(ExitCode::Success)
    }
}
