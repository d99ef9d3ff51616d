//! `reaperd config`: what the configuration is, where each value comes from, and a file to begin with.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::daemon::ConfigFiles;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{escape, json_line};
use crate::daemon::config::layers::{Configuration, Given, Origin, Selection, Setting};
use crate::daemon::config::options::{Kind, OPTIONS, OptionSpec};

/// Where the help of a commented file breaks its lines.
const WIDTH: usize = 90;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the configuration that a daemon would have here, in the form of a file
    Show {
        /// Add to each line where its value comes from
        #[arg(long)]
        origin: bool,
        /// Print one JSON object, with all there is to know of each option
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        files: ConfigFiles,
    },
    /// Print a configuration file with all keys, their defaults and their meaning
    Default,
    /// Check the configuration; with FILE, this file and the environment
    Check {
        /// The file to check instead of those that a daemon would read
        file: Option<PathBuf>,
    },
}

impl Arguments {
    pub(super) fn run(self, socket: Option<PathBuf>) -> Result<ExitCode, Failure> {
        let socket = socket.map(|path| ("socket".to_owned(), path.display().to_string()));
        let load = |selection| Given::new(selection, socket.into_iter().collect()).load();
        let mut out = io::stdout().lock();
        let written = match self.command {
            Command::Show {
                origin,
                json,
                files,
            } => {
                let configuration = load(files.selection())?;
                if json {
                    writeln!(out, "{}", json_line(&as_json(&configuration)))
                } else {
                    show(&mut out, &configuration, origin)
                }
            }
            Command::Default => commented_file(&mut out),
            Command::Check { file } => {
                let selection = file.map_or(Selection::Standard, Selection::Only);
                let configuration = load(selection)?;
                checked(&mut out, &configuration)
            }
        };
        written.map_err(Failure::output)?;
        Ok(ExitCode::Success)
    }
}

/// Returns the socket of the configuration, if it is set there. A client works without it.
pub(super) fn socket_for_clients() -> Option<PathBuf> {
    let loaded = Given::new(Selection::Standard, Vec::new()).load();
    let configuration = loaded
        .inspect_err(|faults| log::warn!("the configuration is not used: {faults}"))
        .ok()?;
    let socket = &configuration.setting("socket")?.text;
    (!socket.is_empty()).then(|| PathBuf::from(socket))
}

fn checked(out: &mut impl Write, configuration: &Configuration) -> io::Result<()> {
    if configuration.files.is_empty() {
        return writeln!(out, "ok: no configuration file");
    }
    configuration
        .files
        .iter()
        .try_for_each(|path| writeln!(out, "ok: {}", escape(&path.display().to_string())))
}

fn show(out: &mut impl Write, configuration: &Configuration, origin: bool) -> io::Result<()> {
    for setting in &configuration.settings {
        let value = toml_value(setting.spec, &setting.text);
        let line = format!("{} = {value}", setting.spec.name);
        if origin {
            let origin = escape(&origin_text(&setting.origin)).into_owned();
            writeln!(out, "{line:<40}  # {origin}")?;
        } else {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

fn origin_text(origin: &Origin) -> String {
    match origin {
        Origin::Default => "default".to_owned(),
        Origin::File { path, line } => format!("{}:{line}", path.display()),
        Origin::Variable(name) => format!("variable {name}"),
        Origin::Flag => "flag".to_owned(),
    }
}

fn as_json(configuration: &Configuration) -> Value {
    let option = |setting: &Setting| {
        let spec = setting.spec;
        let kind = match setting.origin {
            Origin::Default => "default",
            Origin::File { .. } => "file",
            Origin::Variable(_) => "variable",
            Origin::Flag => "flag",
        };
        json!({
            "key": spec.name,
            "value": setting.text,
            "origin": kind,
            "place": origin_text(&setting.origin),
            "default": spec.default,
            "expects": spec.expects,
            "help": spec.help,
            "flag": format!("--{}", spec.name),
            "variable": spec.variable(),
            "reload": spec.reload,
        })
    };
    let files = configuration
        .files
        .iter()
        .map(|path| path.display().to_string());
    json!({
        "schema": 1,
        "files": files.collect::<Vec<_>>(),
        "options": configuration.settings.iter().map(option).collect::<Vec<_>>(),
    })
}

fn commented_file(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "# Configuration of reaperd. Every key is here with its default.\n\
         # Places: /etc/reaperd/reaperd.toml, and ~/.config/reaperd/reaperd.toml of a user.\n\
         # `reaperd config check` checks it; SIGHUP or `systemctl reload reaperd` puts it in force."
    )?;
    for spec in OPTIONS {
        writeln!(out)?;
        for line in wrapped(&format!("{}.", spec.help)) {
            writeln!(out, "# {line}")?;
        }
        for line in wrapped(&format!("Value: {}.", spec.expects)) {
            writeln!(out, "# {line}")?;
        }
        let change = if spec.reload { "a reload" } else { "a restart" };
        writeln!(
            out,
            "# Flag: --{}. Variable: {}. A change takes {change}.",
            spec.name,
            spec.variable()
        )?;
        writeln!(out, "#{} = {}", spec.name, toml_value(spec, spec.default))?;
    }
    Ok(())
}

/// Breaks a text into lines.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + word.len() < WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Returns the value as it stands in a file.
fn toml_value(spec: &OptionSpec, text: &str) -> String {
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    let scalar = |text: &str| {
        if is_number(text) {
            text.to_owned()
        } else {
            // TOML and JSON have the same basic strings, apart from what JSON may leave unescaped.
            json_line(&Value::from(text))
        }
    };
    match spec.kind {
        Kind::Switch => text.to_owned(),
        Kind::Text | Kind::Number => scalar(text),
        Kind::List => {
            let parts = text.split(',').filter(|part| !part.is_empty());
            format!("[{}]", parts.map(scalar).collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::daemon::config::file;

    #[test]
    fn the_commented_file_has_the_defaults() {
        let mut out = Vec::new();
        commented_file(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
        let uncommented = |line: &str| line.trim_start_matches('#').to_owned() + "\n";
        let keys: String = text.lines().filter(is_key).map(uncommented).collect();
        let mut faults = Vec::new();
        assert_eq!(file::parse(Path::new("/f"), &text, &mut faults).len(), 0);
        let entries = file::parse(Path::new("/f"), &keys, &mut faults);
        assert_eq!(faults, []);
        assert_eq!(entries.len(), OPTIONS.len());
        for (entry, spec) in entries.iter().zip(OPTIONS) {
            assert_eq!((entry.spec.name, &*entry.text), (spec.name, spec.default));
        }
    }

    #[test]
    fn a_value_is_quoted_unless_it_is_a_number_or_a_switch() {
        let value = |name: &str, text: &str| {
            let spec = OPTIONS.iter().find(|spec| spec.name == name).unwrap();
            toml_value(spec, text)
        };
        assert_eq!(value("ttl", "24h"), "\"24h\"");
        assert_eq!(value("max-sessions", "7"), "7");
        assert_eq!(value("max-bytes", "2MiB"), "\"2MiB\"");
        assert_eq!(value("strict-replace", "true"), "true");
        assert_eq!(value("allow-uid", "7,alice"), "[7, \"alice\"]");
        assert_eq!(value("socket", "/a \"b\""), r#""/a \"b\"""#);
    }
}
