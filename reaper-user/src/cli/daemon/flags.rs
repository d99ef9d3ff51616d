//! The flags of `reaperd daemon`, made from the table of options.

use clap::{Arg, ArgAction, ArgMatches, Command, error::ErrorKind};

use super::SOCKET;
use crate::daemon::config::options::{Kind, OPTIONS, OptionSpec};

/// The flags of the options in the table that were given: names and values.
#[derive(Debug)]
pub(super) struct Flags(pub(super) Vec<(String, String)>);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let flags = OPTIONS.iter().filter(|spec| spec.name != SOCKET);
        let command = command.args(flags.map(flag));
        #[cfg(target_os = "linux")]
        let command = command.mut_arg("user", |user| user.conflicts_with("no-monitor"));
        command.mut_arg("tcp", |tcp| tcp.conflicts_with("no-tcp"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for spec in OPTIONS.iter().filter(|spec| spec.name != SOCKET) {
            let Some(values) = matches.get_many::<String>(spec.name) else {
                continue;
            };
            let values: Vec<_> = values.map(String::as_str).collect();
            let text = values.join(",");
            // Each part of a list is right, but they may not fit together.
            spec.check(&text).map_err(|error| {
                let message = format!("invalid value '{text}' for '--{}': {error}\n", spec.name);
                clap::Error::raw(ErrorKind::ValueValidation, message)
            })?;
            given.push((spec.name.to_owned(), text));
        }
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Returns the flag of an option.
fn flag(spec: &'static OptionSpec) -> Arg {
    let default = match spec.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let help = format!("{}{default}", spec.help);
    let arg = Arg::new(spec.name)
        .long(spec.name)
        .value_name(spec.value)
        .help(help.clone());
    let arg = match spec.details {
        "" => arg,
        details => arg.long_help(format!("{help}\n\n{details}")),
    };
    match spec.kind {
        Kind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Kind::List => arg.action(ArgAction::Append).value_delimiter(','),
        Kind::Text | Kind::Number => arg,
    }
    .value_parser(move |text: &str| match text {
        "" => Err(format!("is empty; expected {}", spec.expects)),
        _ => spec.check(text).map(|()| text.to_owned()),
    })
}
