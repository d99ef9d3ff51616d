//! `--profile claudemesh`: the places, files and answers of the claudemesh daemon, for its clients.
//!
//! What is set explicitly wins over the profile. The files are in the folder of the socket.

pub(crate) mod pid_file;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::api::listener::{Folder, ListenError, SocketAccess};

/// Names the folder in place of the one below the home folder.
const FOLDER: &str = "CLAUDEMESH_DAEMON_DIR";
/// The folder, below the home folder.
const BELOW_HOME: &str = ".claudemesh/daemon";
const SOCKET: &str = "daemon.sock";
/// Where it listens over TCP.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 47_823);
/// What the control group of the first process contains in a container.
const CONTAINERS: [&str; 3] = ["docker", "kubepods", "containerd"];

/// Whose clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Claudemesh,
}

impl Profile {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "claudemesh" => Ok(Self::Claudemesh),
            _ => Err("is no profile".to_owned()),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Claudemesh => "claudemesh",
        }
    }

    /// Returns the path of the socket, if the environment names a folder for it.
    pub(crate) fn socket(self) -> Option<PathBuf> {
        let Self::Claudemesh = self;
        socket(|name| std::env::var_os(name))
    }

    /// Returns where it listens over TCP, unless it runs in a container.
    pub(crate) fn tcp(self) -> Option<SocketAddr> {
        let Self::Claudemesh = self;
        let is_in_container = is_container(|name| std::env::var_os(name), Path::new("/"));
        (!is_in_container).then_some(ADDRESS)
    }
}

/// Creates the folder above that of this socket if it is missing: a home folder has neither of the two.
pub(crate) fn create_parent(socket: &Path) -> Result<(), ListenError> {
    let socket = std::path::absolute(socket).map_err(ListenError::system("resolve", socket))?;
    let folder = socket.parent().unwrap_or(&socket);
    let parent = folder.parent();
    if parent.is_some_and(|parent| parent.symlink_metadata().is_err()) {
        Folder::of_socket(folder, SocketAccess::Private)?;
    }
    Ok(())
}

fn socket(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|it| !it.is_empty())
            .map(PathBuf::from)
    };
    let folder = set(FOLDER).or_else(|| set("HOME").map(|home| home.join(BELOW_HOME)))?;
    Some(folder.join(SOCKET))
}

/// Decides as the claudemesh daemon does.
fn is_container(variable: impl Fn(&str) -> Option<OsString>, root: &Path) -> bool {
    let has_cgroup = || {
        let cgroup = std::fs::read_to_string(root.join("proc/1/cgroup")).unwrap_or_default();
        CONTAINERS.iter().any(|name| cgroup.contains(name))
    };
    variable("KUBERNETES_SERVICE_HOST").is_some_and(|it| !it.is_empty())
        || variable("CONTAINER").is_some_and(|it| it == "1")
        || root.join(".dockerenv").exists()
        || has_cgroup()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_folder_is_that_of_the_variable_or_below_the_home_folder() {
        let path = |of: &[(&str, &str)]| {
            let found = socket(|name| {
                let set = of.iter().find(|(it, _)| *it == name);
                set.map(|(_, value)| OsString::from(value))
            });
            found.map(|path| path.to_str().unwrap().to_owned())
        };
        let home = ("HOME", "/h");
        let below_home = Some("/h/.claudemesh/daemon/daemon.sock".to_owned());
        assert_eq!(path(&[home]), below_home);
        let named = path(&[home, (FOLDER, "/d")]);
        assert_eq!(named.as_deref(), Some("/d/daemon.sock"));
        assert_eq!(path(&[home, (FOLDER, "")]), below_home);
        assert_eq!(path(&[]), None);
    }

    #[test]
    fn a_container_is_recognised_by_variables_a_file_or_the_control_group() {
        let root = tempfile::tempdir().unwrap();
        let with = |name: &str, value: &str| {
            is_container(
                |it| (it == name).then(|| OsString::from(value)),
                root.path(),
            )
        };
        assert!(!with("X", "1"));
        assert!(with("KUBERNETES_SERVICE_HOST", "10.0.0.1"));
        assert!(with("CONTAINER", "1") && !with("CONTAINER", "0"));
        let cgroup = root.path().join("proc/1/cgroup");
        fs::create_dir_all(cgroup.parent().unwrap()).unwrap();
        fs::write(&cgroup, "0::/init.scope\n").unwrap();
        assert!(!with("X", ""));
        fs::write(&cgroup, "0::/kubepods/besteffort/pod1\n").unwrap();
        assert!(with("X", ""));
        fs::remove_file(&cgroup).unwrap();
        fs::write(root.path().join(".dockerenv"), "").unwrap();
        assert!(with("X", ""));
    }
}
