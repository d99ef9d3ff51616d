//! Where the daemon's socket is: the one place that decides it, for the daemon and all its clients.
//!
//! Nothing here depends on a session's own environment, or daemon and client would part ways.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Overrides the default for client and daemon alike.
pub const VARIABLE: &str = "REAPERD_SOCKET";
/// Names the user's runtime folder.
const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// Names the folder of temporary files.
const TEMP_DIR: &str = "TMPDIR";
/// Of the system-wide daemon.
const SYSTEM: &str = "/run/reaperd";

/// What the decision is made from.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `REAPERD_SOCKET`.
    pub variable: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<OsString>,
    /// `TMPDIR`.
    pub temp_dir: Option<OsString>,
    /// The effective user.
    pub uid: u32,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        Self {
            variable: env::var_os(VARIABLE),
            runtime_dir: env::var_os(RUNTIME_DIR),
            temp_dir: env::var_os(TEMP_DIR),
            uid: rustix::process::geteuid().as_raw(),
        }
    }
}

/// The folder of this program among those that last as long as the user is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFolder {
    /// Not created yet, it may be.
    pub path: PathBuf,
    /// The environment variable that names the folder it lies in; `None` where no variable does.
    pub variable: Option<&'static str>,
}

/// The socket's path: the flag, the variable, a default name in the [`runtime_folder`].
pub fn resolve(flag: Option<&Path>, surroundings: &Surroundings) -> PathBuf {
    if let Some(path) = flag {
        return path.to_owned();
    }
    // Set and empty is how shells say "not set".
    let variable = surroundings.variable.as_ref();
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return path.into();
    }
    runtime_folder(surroundings).path.join("reaperd.sock")
}

/// The folder for what this program leaves at run time: in the user's runtime folder, the system's for
/// root, a private one among the temporary ones.
pub fn runtime_folder(surroundings: &Surroundings) -> RuntimeFolder {
    let Surroundings {
        runtime_dir,
        temp_dir,
        uid,
        ..
    } = surroundings;
    if let Some(dir) = absolute(runtime_dir.as_ref()) {
        return RuntimeFolder {
            path: dir.join("reaperd"),
            variable: Some(RUNTIME_DIR),
        };
    }
    if *uid == 0 {
        return RuntimeFolder {
            path: SYSTEM.into(),
            variable: None,
        };
    }
    let dir = absolute(temp_dir.as_ref());
    RuntimeFolder {
        path: dir
            .unwrap_or(Path::new("/tmp"))
            .join(format!("reaperd-{uid}")),
        variable: dir.map(|_| TEMP_DIR),
    }
}

/// A relative folder would put the socket wherever somebody happens to stand.
fn absolute(dir: Option<&OsString>) -> Option<&Path> {
    dir.map(Path::new).filter(|dir| dir.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings {
            variable: Some("/v/x.sock".into()),
            runtime_dir: Some("/run/user/7".into()),
            temp_dir: Some("/var/tmp".into()),
            uid: 7,
        }
    }

    fn path(surroundings: &Surroundings) -> String {
        resolve(None, surroundings).to_str().unwrap().to_owned()
    }

    #[test]
    fn flag_then_variable_then_runtime_folder_then_temporary_folder() {
        let mut here = surroundings();
        assert_eq!(
            resolve(Some(Path::new("f.sock")), &here),
            Path::new("f.sock")
        );
        assert_eq!(path(&here), "/v/x.sock");
        here.variable = None;
        assert_eq!(path(&here), "/run/user/7/reaperd/reaperd.sock");
        here.runtime_dir = None;
        assert_eq!(path(&here), "/var/tmp/reaperd-7/reaperd.sock");
        here.temp_dir = None;
        assert_eq!(path(&here), "/tmp/reaperd-7/reaperd.sock");
    }

    #[test]
    fn root_without_a_runtime_folder_uses_the_systems() {
        let here = Surroundings {
            variable: None,
            runtime_dir: None,
            uid: 0,
            ..surroundings()
        };
        assert_eq!(path(&here), "/run/reaperd/reaperd.sock");
    }

    #[test]
    fn a_runtime_folder_says_which_variable_names_its_place() {
        let mut here = surroundings();
        let variable = |here: &Surroundings| runtime_folder(here).variable;
        assert_eq!(variable(&here), Some("XDG_RUNTIME_DIR"));
        here.runtime_dir = None;
        assert_eq!(variable(&here), Some("TMPDIR"));
        here.temp_dir = None;
        assert_eq!(variable(&here), None);
    }

    #[test]
    fn empty_and_relative_values_do_not_count() {
        let here = Surroundings {
            variable: Some("".into()),
            runtime_dir: Some("run".into()),
            temp_dir: Some("".into()),
            uid: 7,
        };
        assert_eq!(path(&here), "/tmp/reaperd-7/reaperd.sock");
    }
}
