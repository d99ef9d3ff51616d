//! Puts the configuration together, and remembers where each value comes from. A later one wins:
//! default, file of the system, file of the user, environment, flag.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use super::fault::{Fault, Faults, Place};
use super::options::{self, OPTIONS, OptionSpec};
use super::readable::{self, Readable};
use super::{DaemonOptions, file, values};
use crate::daemon::profile::Profile;
use crate::daemon::socket_path::{self, Surroundings};

/// The file of the system.
const SYSTEM_FILE: &str = "/etc/reaperd/reaperd.toml";
/// The file of a user, in the folder of its configuration.
const USER_FILE: &str = "reaperd/reaperd.toml";

/// Which files are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// That of the system and that of the user. Users other than root who have a file of their own do
    /// not need that of the system.
    Standard,
    /// This one, which must exist.
    Only(PathBuf),
    None,
}

/// What a command line says about the configuration. It is kept for reloads.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    paths: Vec<PathBuf>,
    selection: Selection,
    /// Names and values of flags.
    flags: Vec<(String, String)>,
    default_socket: PathBuf,
    /// Whether the file of the system counts beside that of the user.
    of_root: bool,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag,
}

/// One option with its value as text.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) spec: &'static OptionSpec,
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

/// A configuration without faults.
#[derive(Clone)]
pub(crate) struct Configuration {
    /// In the order of the table.
    pub(crate) settings: Vec<Setting>,
    /// Those that were read, in rising order.
    pub(crate) files: Vec<PathBuf>,
}

impl Given {
    /// Determines the paths of the files, for the life of this process.
    pub(crate) fn new(selection: Selection, flags: Vec<(String, String)>) -> Self {
        let paths = match &selection {
            Selection::Standard => standard_paths(|name| env::var_os(name).map(PathBuf::from)),
            Selection::Only(path) => vec![path.clone()],
            Selection::None => Vec::new(),
        };
        readable::set_configuration(&paths);
        let surroundings = Surroundings::of_this_process();
        Self {
            paths,
            selection,
            flags,
            default_socket: socket_path::default_of_daemon(&surroundings),
            of_root: surroundings.uid == 0,
        }
    }

    /// Adds flags, which win over those that were given.
    pub(crate) fn add_flags(&mut self, flags: impl IntoIterator<Item = (String, String)>) {
        self.flags.extend(flags);
    }

    /// Reads files and environment. In a worker, the monitor opens the files.
    pub(crate) fn load(&self) -> Result<Configuration, Faults> {
        let mut faults = Vec::new();
        let mut settings: Vec<_> = OPTIONS
            .iter()
            .map(|spec| Setting {
                spec,
                text: spec.default.to_owned(),
                origin: Origin::Default,
            })
            .collect();
        let mut set = |spec: &OptionSpec, text: String, origin| {
            let setting = settings.iter_mut().find(|it| it.spec.name == spec.name);
            if let Some(setting) = setting {
                (setting.text, setting.origin) = (text, origin);
            }
        };
        let mut files = Vec::new();
        for (path, text) in self.read_files(&mut faults) {
            for entry in file::parse(&path, &text, &mut faults) {
                let line = entry.line;
                let path = path.clone();
                set(entry.spec, entry.text, Origin::File { path, line });
            }
            files.push(path);
        }
        for spec in OPTIONS {
            if let Some((name, text)) = variable(spec, &mut faults) {
                set(spec, text, Origin::Variable(name));
            }
        }
        for (name, text) in &self.flags {
            if let Some(spec) = options::named(name) {
                set(spec, text.clone(), Origin::Flag);
            }
        }
        let configuration = Configuration { settings, files };
        if faults.is_empty() {
            faults.extend(configuration.contradictions());
        }
        if faults.is_empty() {
            Ok(configuration)
        } else {
            Err(Faults(faults))
        }
    }

    /// Returns the options of a configuration that was loaded here.
    pub(crate) fn options(&self, configuration: &Configuration) -> DaemonOptions {
        let mut options = DaemonOptions::on(&self.default_socket);
        for setting in &configuration.settings {
            // Checked when it was loaded. A name that has vanished since then leaves the default.
            (setting.spec.set)(&mut options, &setting.text).unwrap_or_default();
        }
        let is_set = |name| {
            configuration
                .setting(name)
                .is_some_and(|it| !it.text.is_empty())
        };
        if let Some(socket) = options.profile.and_then(Profile::socket)
            && !is_set("socket")
        {
            options.socket = socket;
        }
        options
    }

    /// Returns the files that exist, in rising order.
    fn read_files(&self, faults: &mut Vec<Fault>) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        for (index, path) in (0..=u8::MAX).zip(&self.paths).rev() {
            let opened = Readable::Configuration(index).open();
            let read = opened.and_then(|file| file.map(file::read).transpose());
            let problem = match read {
                Ok(Some(text)) => {
                    found.push((path.clone(), text));
                    if self.of_root {
                        continue;
                    }
                    break;
                }
                Ok(None) if self.selection == Selection::Standard => continue,
                Ok(None) => "does not exist".to_owned(),
                // Such as a HOME that su(1) has left as it was.
                Err(error) if self.selection == Selection::Standard && is_hidden(path, &error) => {
                    log::warn!("{} is not read: {error}", path.display());
                    continue;
                }
                Err(error) => error.to_string(),
            };
            faults.push(Fault {
                place: Place::File(path.clone()),
                message: problem,
            });
        }
        found.reverse();
        found
    }
}

impl Configuration {
    /// Returns the setting with this name.
    pub(crate) fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|it| it.spec.name == name)
    }

    /// Returns what values of several options, right as each of them is, do not allow.
    fn contradictions(&self) -> Vec<Fault> {
        let text = |name: &'static str| self.setting(name).map_or("", |setting| &setting.text);
        let is_set = |name| !["", "false"].contains(&text(name));
        let mut messages = Vec::new();
        for (one, other) in [
            ("user", "no-monitor"),
            ("tcp", "no-tcp"),
            ("profile", "user"),
        ] {
            if is_set(one) && is_set(other) {
                messages.push(format!(
                    "{one} and {other} cannot be set together; expected one of them"
                ));
            }
        }
        if let Ok(address) = values::metrics_address(text("tcp"))
            && !address.ip().is_loopback()
        {
            messages.push(format!(
                "tcp: {address} is not an address of the loopback interface, and other machines could reach \
                 it; expected one such as 127.0.0.1:{}",
                address.port()
            ));
        }
        let profile = Profile::parse(text("profile")).ok();
        if profile.is_some_and(|it| it.socket().is_none()) && !is_set("socket") {
            messages.push(
                "profile: neither CLAUDEMESH_DAEMON_DIR nor HOME is set; expected one of them, or socket"
                    .to_owned(),
            );
        }
        let together = |message| Fault {
            place: Place::Together,
            message,
        };
        messages.into_iter().map(together).collect()
    }
}

/// Returns whether this user may not even look whether there is such a file.
fn is_hidden(path: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        && path
            .symlink_metadata()
            .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Returns name and value of the variable of this option. One that is set to the empty string counts as unset.
fn variable(spec: &OptionSpec, faults: &mut Vec<Fault>) -> Option<(String, String)> {
    let value = |name: &String| env::var_os(name).filter(|value| !value.is_empty());
    let set = spec
        .variables()
        .find_map(|name| Some((value(&name)?, name)));
    let (value, name) = set?;
    let checked = match value.into_string() {
        Ok(text) => spec
            .check(&text)
            .map(|()| text.clone())
            .map_err(|error| format!("{text:?}: {error}")),
        Err(_other) => Err("is not UTF-8".to_owned()),
    };
    match checked {
        Ok(text) => Some((name, text)),
        Err(message) => {
            faults.push(Fault {
                place: Place::Variable(name),
                message,
            });
            None
        }
    }
}

/// Returns the paths in rising order. Folders that are not absolute are ignored, as the specification
/// of these variables demands.
fn standard_paths(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let absolute = |name| variable(name).filter(|folder| folder.is_absolute());
    let of_user =
        absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    let system = Path::new(SYSTEM_FILE).to_owned();
    std::iter::once(system)
        .chain(of_user.map(|folder| folder.join(USER_FILE)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_not_absolute_are_ignored() {
        let paths = |xdg: Option<&str>, home: Option<&str>| {
            standard_paths(|name| match name {
                "XDG_CONFIG_HOME" => xdg.map(PathBuf::from),
                _ => home.map(PathBuf::from),
            })
        };
        let system = PathBuf::from(SYSTEM_FILE);
        let with = |user: &str| vec![system.clone(), PathBuf::from(user)];
        assert_eq!(
            paths(Some("/x"), Some("/h")),
            with("/x/reaperd/reaperd.toml")
        );
        let of_home = with("/h/.config/reaperd/reaperd.toml");
        assert_eq!(paths(Some("x"), Some("/h")), of_home);
        assert_eq!(paths(Some(""), Some("/h")), of_home);
        assert_eq!(paths(None, Some("h")), std::slice::from_ref(&system));
        assert_eq!(paths(None, None), [system]);
    }
}
