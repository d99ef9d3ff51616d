//! The path of the daemon's socket, for the daemon and all its clients.
//!
//! It does not depend on the environment of a session, so that daemon and clients find the same
//! path.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{env, fmt, io};

/// Overrides the default path, for clients and daemon.
pub(crate) const VARIABLE: &str = "REAPERD_SOCKET";
/// The variable of the user's runtime folder.
const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// The variable of the folder of temporary files.
const TEMP_DIR: &str = "TMPDIR";
/// The folder of the system-wide daemon.
const SYSTEM: &str = "/run/reaperd";
/// The name of the socket in a default folder.
const FILE_NAME: &str = "reaperd.sock";

/// The environment from which the path is derived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// `REAPERD_SOCKET`.
    pub variable: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<OsString>,
    /// `TMPDIR`.
    pub temp_dir: Option<OsString>,
    /// `RUNTIME_DIRECTORY`: `RuntimeDirectory=` of a unit, with colons between several.
    pub runtime_directory: Option<OsString>,
    /// The effective user.
    pub uid: u32,
}

impl Surroundings {
    /// Returns the environment of this process.
    pub(crate) fn of_this_process() -> Self {
        Self {
            variable: env::var_os(VARIABLE),
            runtime_dir: env::var_os(RUNTIME_DIR),
            temp_dir: env::var_os(TEMP_DIR),
            runtime_directory: env::var_os("RUNTIME_DIRECTORY"),
            uid: rustix::process::geteuid().as_raw(),
        }
    }
}

/// The folder of this program's run-time files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuntimeFolder {
    /// It may not exist yet.
    pub path: PathBuf,
    /// The environment variable that names its parent, if one does.
    pub variable: Option<&'static str>,
}

/// Returns the path of the socket: the flag, else the variable, else a default in the
/// [`runtime_folder`].
pub(crate) fn resolve(flag: Option<&Path>, surroundings: &Surroundings) -> PathBuf {
    let given = given(flag, surroundings);
    given.unwrap_or_else(|| runtime_folder(surroundings).path.join(FILE_NAME))
}

/// Returns the path for a daemon that is given none. A service listens in the folder `reaperd` that the service
/// manager has created for it (`RuntimeDirectory=`). The variable may be another service's, if this daemon is
/// one of its processes; so no other folder is used.
pub(crate) fn default_of_daemon(surroundings: &Surroundings) -> PathBuf {
    let created = || {
        let folders = surroundings.runtime_directory.as_ref()?;
        let first = folders.as_bytes().split(|byte| *byte == b':').next()?;
        let folder = Path::new(OsStr::from_bytes(first));
        let is_meant = folder.is_absolute() && folder.ends_with("reaperd");
        is_meant.then(|| folder.to_owned())
    };
    let folder = created().unwrap_or_else(|| runtime_folder(surroundings).path);
    folder.join(FILE_NAME)
}

/// The flag, else the variable. A variable that is set to the empty string counts as unset.
fn given(flag: Option<&Path>, surroundings: &Surroundings) -> Option<PathBuf> {
    let variable = surroundings.variable.as_ref();
    let variable = variable.filter(|path| !path.is_empty());
    flag.map(Path::to_owned)
        .or_else(|| variable.map(PathBuf::from))
}

/// How the choice of a client's socket looks at the system.
pub(crate) trait Look {
    /// Returns whether there is a socket in a folder that other users cannot change.
    fn is_trusted(&self, path: &Path) -> bool;
    /// Returns whether a program listens at this path and accepts this user.
    fn listens(&self, path: &Path) -> bool;
}

/// The socket that a client connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientSocket {
    pub path: PathBuf,
    /// Other users can create its folder where it is missing.
    pub is_in_temporary_folder: bool,
}

/// Returns the socket for clients: as for the daemon, but where no path is given and no daemon of the user
/// listens, that of the system, if there is one. A socket of somebody
/// else at the user's path does not hide it.
pub(crate) fn resolve_for_client(
    flag: Option<&Path>,
    surroundings: &Surroundings,
    look: &impl Look,
) -> ClientSocket {
    let path = resolve(flag, surroundings);
    if given(flag, surroundings).is_some() {
        return ClientSocket {
            path,
            is_in_temporary_folder: false,
        };
    }
    let of_system = Path::new(SYSTEM).join(FILE_NAME);
    let is_served = look.is_trusted(&path) && look.listens(&path);
    if path != of_system && !is_served && look.is_trusted(&of_system) {
        return ClientSocket {
            path: of_system,
            is_in_temporary_folder: false,
        };
    }
    let has_own_folder =
        absolute(surroundings.runtime_dir.as_ref()).is_some() || surroundings.uid == 0;
    ClientSocket {
        path,
        is_in_temporary_folder: !has_own_folder,
    }
}

/// Returns the folder of this program's run-time files: in the user's runtime folder, else `/run`
/// for root, else in the folder of temporary files.
pub(crate) fn runtime_folder(surroundings: &Surroundings) -> RuntimeFolder {
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

/// Why a default path is not where this user's daemon is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WrongFolder {
    /// `XDG_RUNTIME_DIR` is the folder of another user, as after su(1).
    OfOther {
        folder: PathBuf,
        owner: u32,
        uid: u32,
    },
    /// `XDG_RUNTIME_DIR` names no folder.
    Missing { folder: PathBuf, uid: u32 },
    /// `XDG_RUNTIME_DIR` is unset or relative, although this user has the usual folder.
    Unset { used: PathBuf, usual: PathBuf },
}

impl WrongFolder {
    /// Checks the folder in which the default paths of this user are.
    pub(crate) fn of(surroundings: &Surroundings) -> Option<Self> {
        let uid = surroundings.uid;
        let usual = usual_runtime_dir(uid);
        let Some(folder) = absolute(surroundings.runtime_dir.as_ref()) else {
            let used = runtime_folder(surroundings).path;
            return (uid != 0 && usual.is_dir()).then_some(Self::Unset { used, usual });
        };
        let folder = folder.to_owned();
        match folder.metadata() {
            Ok(found) if found.is_dir() && [uid, 0].contains(&found.uid()) => None,
            Ok(found) if found.is_dir() => Some(Self::OfOther {
                folder,
                owner: found.uid(),
                uid,
            }),
            // A folder that cannot be examined has another problem, which the failure names.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            _ => Some(Self::Missing { folder, uid }),
        }
    }

    /// The folder that was used.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Self::OfOther { folder, .. } | Self::Missing { folder, .. } => folder,
            Self::Unset { used, .. } => used,
        }
    }

    /// Returns the remedy.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::OfOther { uid, .. } | Self::Missing { uid, .. } => {
                let usual = usual_runtime_dir(*uid);
                if usual.is_dir() {
                    format!("export {RUNTIME_DIR}={}", usual.display())
                } else {
                    format!("unset {RUNTIME_DIR}, or use --socket PATH")
                }
            }
            Self::Unset { usual, .. } => format!("export {RUNTIME_DIR}={}", usual.display()),
        }
    }
}

impl fmt::Display for WrongFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfOther { folder, owner, uid } => write!(
                f,
                "{RUNTIME_DIR} is {}, which belongs to user {owner}, and this user is {uid}",
                folder.display()
            ),
            Self::Missing { folder, .. } => write!(
                f,
                "{RUNTIME_DIR} is {}, and there is no such folder",
                folder.display()
            ),
            Self::Unset { used, .. } => {
                write!(f, "{RUNTIME_DIR} is not set, so {} is used", used.display())
            }
        }
    }
}

/// The folder that a login sets `XDG_RUNTIME_DIR` to.
fn usual_runtime_dir(uid: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{uid}"))
}

/// A relative folder would make the path depend on the current folder.
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
            runtime_directory: None,
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

    /// A system with these sockets only.
    #[derive(Default)]
    struct Known<'a> {
        listening: &'a [&'a Path],
        stale: &'a [&'a Path],
        /// Somebody else listens there.
        foreign: &'a [&'a Path],
    }

    impl Look for Known<'_> {
        fn is_trusted(&self, path: &Path) -> bool {
            self.listening.contains(&path) || self.stale.contains(&path)
        }

        fn listens(&self, path: &Path) -> bool {
            self.listening.contains(&path) || self.foreign.contains(&path)
        }
    }

    #[test]
    fn a_service_without_a_path_uses_its_own_runtime_directory() {
        let mut here = surroundings();
        let path = |here: &Surroundings| default_of_daemon(here);
        here.runtime_directory = Some("/run/reaperd:/run/other".into());
        assert_eq!(path(&here), Path::new("/run/reaperd/reaperd.sock"));
        let usual = Path::new("/run/user/7/reaperd/reaperd.sock");
        for others in ["/run/other", "reaperd", ""] {
            here.runtime_directory = Some(others.into());
            assert_eq!(path(&here), usual, "{others:?}");
        }
    }

    #[test]
    fn a_client_without_a_socket_of_its_user_uses_that_of_the_system() {
        let system = Path::new("/run/reaperd/reaperd.sock");
        let of_user = Path::new("/run/user/7/reaperd/reaperd.sock");
        let mut here = surroundings();
        let resolved = |here: &Surroundings, listening: &[&Path]| {
            resolve_for_client(
                None,
                here,
                &Known {
                    listening,
                    ..Known::default()
                },
            )
        };
        assert_eq!(resolved(&here, &[system]).path, Path::new("/v/x.sock"));
        here.variable = None;
        assert_eq!(resolved(&here, &[]).path, of_user);
        assert_eq!(resolved(&here, &[of_user, system]).path, of_user);
        assert_eq!(resolved(&here, &[system]).path, system);
        // The user's daemon was killed and left its socket behind.
        let stale = Known {
            listening: &[system],
            stale: &[of_user],
            ..Known::default()
        };
        assert_eq!(resolve_for_client(None, &here, &stale).path, system);
        let squatted = Known {
            listening: &[system],
            foreign: &[of_user],
            ..Known::default()
        };
        assert_eq!(resolve_for_client(None, &here, &squatted).path, system);
        let flag = resolve_for_client(Some(Path::new("f")), &here, &stale);
        assert_eq!(flag.path, Path::new("f"));
    }

    #[test]
    fn only_the_default_in_the_folder_of_temporary_files_can_be_created_by_others() {
        let mut here = surroundings();
        let nothing = Known::default();
        let is_temporary =
            |here: &Surroundings| resolve_for_client(None, here, &nothing).is_in_temporary_folder;
        assert!(!is_temporary(&here), "a path is given");
        here.variable = None;
        assert!(!is_temporary(&here), "the runtime folder");
        here.runtime_dir = None;
        assert!(is_temporary(&here));
        here.uid = 0;
        assert!(!is_temporary(&here), "/run");
    }

    #[test]
    fn root_without_a_runtime_folder_uses_run() {
        let here = Surroundings {
            variable: None,
            runtime_dir: None,
            uid: 0,
            ..surroundings()
        };
        assert_eq!(path(&here), "/run/reaperd/reaperd.sock");
    }

    #[test]
    fn a_runtime_folder_has_the_variable_of_its_parent() {
        let mut here = surroundings();
        let variable = |here: &Surroundings| runtime_folder(here).variable;
        assert_eq!(variable(&here), Some("XDG_RUNTIME_DIR"));
        here.runtime_dir = None;
        assert_eq!(variable(&here), Some("TMPDIR"));
        here.temp_dir = None;
        assert_eq!(variable(&here), None);
    }

    #[test]
    fn empty_and_relative_values_are_ignored() {
        let here = Surroundings {
            variable: Some("".into()),
            runtime_dir: Some("run".into()),
            temp_dir: Some("".into()),
            runtime_directory: None,
            uid: 7,
        };
        assert_eq!(path(&here), "/tmp/reaperd-7/reaperd.sock");
    }
}
