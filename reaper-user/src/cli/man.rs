//! `reaperd man`: the manual pages, from the same definitions as the command line's help and the
//! configuration file.
//!
//! The text of a page is clap's; the lists of exit codes, variables, signals and files are added to
//! `reaperd(8)`. For packages, so it is hidden from the help.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::reference::{FILES, SIGNALS, VARIABLES};
use crate::daemon::config::options::{OPTIONS, OptionSpec};

/// The section of all pages: administration and daemons.
const SECTION: &str = "8";
/// The title above each page.
const MANUAL: &str = "reaperd manual";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Write every page into this folder, instead of reaperd(8) to standard output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Date of the pages, such as 2026-01-31
    #[arg(long, default_value = "", hide_default_value = true)]
    date: String,
}

/// One manual page.
#[derive(Debug)]
struct Page {
    /// With the section, such as `reaperd-ls.8`.
    file_name: String,
    text: Vec<u8>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let pages = pages(&self.date).map_err(Failure::output)?;
        let Some(dir) = self.dir else {
            let page = &pages.first().expect("reaperd(8) is the first page").text;
            io::stdout().write_all(page).map_err(Failure::output)?;
            return Ok(ExitCode::Success);
        };
        for Page { file_name, text } in pages {
            let path = dir.join(file_name);
            std::fs::write(&path, text).map_err(|error| {
                Failure::new(
                    format!("cannot write {}: {error}", path.display()),
                    "give --dir an existing folder that this user can write to",
                )
            })?;
        }
        Ok(ExitCode::Success)
    }
}

/// Returns the page of `reaperd`, and then one for each command that the help shows.
fn pages(date: &str) -> io::Result<Vec<Page>> {
    let mut root = super::Arguments::command().disable_help_subcommand(true);
    // Passes the global options on to the commands.
    root.build();
    let shown = |command: &&Command| !command.is_hide_set();
    let commands: Vec<Command> = root.get_subcommands().filter(shown).cloned().collect();
    let mut pages = vec![root_page(root, &commands, date)?];
    for command in commands {
        pages.push(command_page(command, date)?);
    }
    pages.push(configuration_page(date)?);
    Ok(pages)
}

/// Returns `reaperd.toml(5)`.
fn configuration_page(date: &str) -> io::Result<Page> {
    let mut text = title("reaperd.toml", "5", date).into_bytes();
    let mut page = Roff::new();
    page.control("SH", ["NAME"]);
    page.text([roman("reaperd.toml - configuration of the daemon")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "The file is in TOML format. Each key is an option of `reaperd daemon` without its dashes. A flag \
         precedes an environment variable, a variable precedes the user's file, and that precedes the \
         system's. `reaperd config default` prints a file with all keys, `reaperd config check` checks \
         one, and `reaperd config show --origin` prints what is in force and where it comes from.",
    )]);
    page.to_writer(&mut text)?;
    let keys = OPTIONS
        .iter()
        .map(|spec| (spec.name.to_owned(), meaning(spec)));
    definitions("KEYS", keys, &mut text)?;
    let is_configuration = |name: &str| Path::new(name).extension().is_some_and(|it| it == "toml");
    let files = FILES.iter().filter(|(name, _)| is_configuration(name));
    let files = files.map(|(name, meaning)| ((*name).to_owned(), (*meaning).to_owned()));
    definitions("FILES", files, &mut text)?;
    Ok(Page {
        file_name: "reaperd.toml.5".to_owned(),
        text,
    })
}

fn meaning(spec: &OptionSpec) -> String {
    let default = match spec.default {
        "" => "not set",
        default => default,
    };
    let change = if spec.reload {
        "SIGHUP puts a change in force."
    } else {
        "A change needs a restart."
    };
    let sentences = [
        format!("{}.", spec.help),
        spec.details.to_owned(),
        format!("Allowed: {}.", spec.expects),
        format!("Default: {default}. Variable: {}.", spec.variable()),
        change.to_owned(),
    ];
    let sentences = sentences.iter().filter(|it| !it.is_empty());
    sentences.map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Returns the first line of a page. Not written by the crates, which leave out an argument that is empty.
fn title(name: &str, section: &str, date: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH \"{name}\" {section} \"{date}\" \"reaperd {version}\" \"{MANUAL}\"\n")
}

fn file_name(command: &Command) -> String {
    let name = command.get_display_name();
    format!("{}.{SECTION}", name.unwrap_or(command.get_name()))
}

fn root_page(root: Command, commands: &[Command], date: &str) -> io::Result<Page> {
    let file_name = file_name(&root);
    let mut text = head(root, date)?;
    let see = commands.iter().map(|command| {
        let about = command.get_about().map(ToString::to_string);
        let name = command.get_display_name().unwrap_or_default();
        (format!("{name}({SECTION})"), about.unwrap_or_default())
    });
    definitions("COMMANDS", see, &mut text)?;
    let codes =
        ExitCode::ALL.map(|(code, meaning)| (code.number().to_string(), meaning.to_owned()));
    definitions("EXIT STATUS", codes.into_iter(), &mut text)?;
    let variables = OPTIONS.iter().map(|spec| {
        let meaning = format!("As the key {} of reaperd.toml(5).", spec.name);
        (spec.variable(), meaning)
    });
    definitions("CONFIGURATION BY VARIABLES", variables, &mut text)?;
    for (heading, rows) in [
        ("ENVIRONMENT", VARIABLES.as_slice()),
        ("SIGNALS", &SIGNALS),
        ("FILES", &FILES),
    ] {
        let rows = rows.iter().map(|(name, meaning)| (*name, *meaning));
        let rows = rows.map(|(name, meaning)| (name.to_owned(), meaning.to_owned()));
        definitions(heading, rows, &mut text)?;
    }
    Ok(Page { file_name, text })
}

fn command_page(command: Command, date: &str) -> io::Result<Page> {
    let file_name = file_name(&command);
    let extra = command.get_after_long_help().map(ToString::to_string);
    let mut text = head(command, date)?;
    if let Some(extra) = extra {
        details(&extra, &mut text)?;
    }
    let mut page = Roff::new();
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("reaperd"), roman(format!("({SECTION})"))]);
    page.to_writer(&mut text)?;
    Ok(Page { file_name, text })
}

/// Returns the sections that are clap's, below the title.
fn head(command: Command, date: &str) -> io::Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let mut text = title(name, SECTION, date).into_bytes();
    let (man, mut sections) = (Man::new(command), Vec::new());
    man.render_name_section(&mut sections)?;
    man.render_synopsis_section(&mut sections)?;
    man.render_description_section(&mut sections)?;
    man.render_options_section(&mut sections)?;
    let sections = String::from_utf8(sections).map_err(io::Error::other)?;
    // An empty line between two breaks is one space. Checkers report the breaks as superfluous.
    text.extend(sections.replace(".br\n\n.br\n", ".sp\n").into_bytes());
    Ok(text)
}

/// Writes a section of names and their meanings.
fn definitions(
    heading: &str,
    rows: impl Iterator<Item = (String, String)>,
    text: &mut Vec<u8>,
) -> io::Result<()> {
    let mut page = Roff::new();
    page.control("SH", [heading]);
    for (name, meaning) in rows {
        page.control("TP", []);
        page.text([bold(name)]);
        page.text([roman(meaning)]);
    }
    page.to_writer(text)
}

/// Writes the text below the options of a command's help. A line that ends with a colon is a heading;
/// an indented line is a name and its meaning, separated by two spaces, or text.
fn details(help: &str, text: &mut Vec<u8>) -> io::Result<()> {
    let mut page = Roff::new();
    let mut lines = help.lines().peekable();
    while let Some(line) = lines.next() {
        let row = line.strip_prefix("  ").and_then(|row| row.split_once("  "));
        let is_before_heading = lines.peek().is_none_or(|next| next.ends_with(':'));
        match (line.strip_suffix(':'), row) {
            (Some(heading), _) => {
                page.control("SH", [heading.to_uppercase().as_str()]);
            }
            (None, Some((name, meaning))) => {
                page.control("TP", []);
                page.text([bold(name)]);
                page.text([roman(meaning.trim_start())]);
            }
            (None, None) if line.is_empty() => {
                if !is_before_heading {
                    page.control("PP", []);
                }
            }
            (None, None) => {
                page.text([roman(line.trim_start())]);
            }
        }
    }
    page.to_writer(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(name: &str) -> String {
        let pages = pages("2026-01-31").unwrap();
        let page = pages.into_iter().find(|page| page.file_name == name);
        String::from_utf8(page.unwrap_or_else(|| panic!("no {name}")).text).unwrap()
    }

    #[test]
    fn each_command_of_the_help_has_a_page_and_hidden_ones_have_none() {
        let names: Vec<_> = pages("2026-01-31")
            .unwrap()
            .into_iter()
            .map(|it| it.file_name)
            .collect();
        for expected in [
            "reaperd.8",
            "reaperd-daemon.8",
            "reaperd-run.8",
            "reaperd-status.8",
        ] {
            assert!(names.iter().any(|name| name == expected), "{names:?}");
        }
        for hidden in ["reaperd-test-process.8", "reaperd-man.8", "reaperd-help.8"] {
            assert!(!names.iter().any(|name| name == hidden), "{names:?}");
        }
    }

    #[test]
    fn the_first_page_has_every_exit_code_variable_and_signal() {
        let page = text_of("reaperd.8").replace("\\-", "-");
        let codes = ExitCode::ALL.map(|(code, _)| code.number().to_string());
        let names = VARIABLES.iter().chain(&SIGNALS).map(|(name, _)| *name);
        for name in names.chain(codes.iter().map(String::as_str)) {
            assert!(page.contains(&format!("\\fB{name}\\fR")), "{name}: {page}");
        }
        let of_commands = pages("2026-01-31").unwrap();
        for command in of_commands
            .iter()
            .skip(1)
            .filter(|it| it.file_name.ends_with(".8"))
        {
            let name = command.file_name.trim_end_matches(".8");
            assert!(page.contains(&format!("\\fB{name}(8)\\fR")), "{name}");
        }
    }

    #[test]
    fn each_page_has_its_date_and_the_version_in_the_places_of_the_title() {
        for page in pages("2026-01-31").unwrap() {
            let text = String::from_utf8(page.text).unwrap();
            let title = text.lines().next().unwrap();
            let version = env!("CARGO_PKG_VERSION");
            let end = format!(" \"2026-01-31\" \"reaperd {version}\" \"{MANUAL}\"");
            assert!(
                title.starts_with(".TH ") && title.ends_with(&end),
                "{title}"
            );
        }
    }

    #[test]
    fn the_page_of_the_file_has_every_key() {
        let page = text_of("reaperd.toml.5").replace("\\-", "-");
        for spec in OPTIONS {
            assert!(
                page.contains(&format!("\\fB{}\\fR", spec.name)),
                "{}",
                spec.name
            );
        }
        assert!(page.contains("/etc/reaperd/reaperd.toml"));
    }

    #[test]
    fn a_commands_page_has_its_options_and_the_variables_that_it_sets() {
        let page = text_of("reaperd-run.8").replace("\\-", "-");
        for part in [
            "--best-effort",
            "--socket",
            "ENVIRONMENT OF COMMAND",
            "\\fBREAPERD_TOKEN_FILE",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}
