//! Why the daemon cannot listen, and the remedies.

use std::io;
use std::path::{Path, PathBuf};

use super::PATH_MAX;

/// The step that needs membership in the group or a privilege.
pub(super) const SET_GROUP: &str = "set the group of";

/// The step that locks the file beside the socket.
pub(super) const LOCK: &str = "lock";

/// Why the daemon cannot listen on its socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    #[error("the socket path {path:?} is {length} bytes long, and the system allows {max}", max = PATH_MAX)]
    PathTooLong { path: PathBuf, length: usize },
    #[error("the socket path {0:?} names no file in a folder")]
    NoFileName(PathBuf),
    #[error("the socket folder {0:?} is a link or not a folder")]
    NotAFolder(PathBuf),
    #[error("the socket folder {path:?} belongs to user {owner}, and this daemon runs as {uid}")]
    NotOurFolder { path: PathBuf, owner: u32, uid: u32 },
    #[error("the socket folder {path:?} can be changed by others (mode {mode:04o})")]
    OpenFolder { path: PathBuf, mode: u32 },
    #[error("members of group {group} cannot enter the socket folder {path:?}")]
    ShutFolder { path: PathBuf, group: u32 },
    #[error(
        "the folder {path:?} above the socket belongs to user {owner}, who can replace the socket; \
         this daemon runs as {uid}"
    )]
    ForeignAncestor { path: PathBuf, owner: u32, uid: u32 },
    #[error(
        "other users may replace the socket: they can write in the folder {path:?} above it (mode \
         {mode:04o})"
    )]
    OpenAncestor { path: PathBuf, mode: u32 },
    #[error("the path of the socket leads through the link {0:?}, which root did not create")]
    Link(PathBuf),
    #[error("the socket folder {0:?} was moved while the socket was bound")]
    Moved(PathBuf),
    #[error("a daemon{} already serves {path:?}", by_pid(*.pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("some other program listens on {0:?}")]
    InUse(PathBuf),
    #[error("{0:?} exists and is not a socket")]
    NotASocket(PathBuf),
    #[error("{call} {path:?}: {source}")]
    System {
        call: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn by_pid(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl ListenError {
    /// Returns the remedy.
    pub fn remedy(&self) -> String {
        match self {
            Self::PathTooLong { .. } => "use a shorter --socket path".to_owned(),
            Self::NoFileName(_) => "give --socket the path of a new file in a folder".to_owned(),
            Self::NotAFolder(path) => format!("remove {}, or use another --socket", path.display()),
            Self::NotOurFolder { .. } => "use a --socket in a folder of this user".to_owned(),
            Self::OpenFolder { path, .. } => {
                // Not a chmod: the folder may be /tmp.
                let own = path.join("reaperd/reaperd.sock");
                format!(
                    "use a folder in which only this user can write, such as --socket {}",
                    own.display()
                )
            }
            Self::ShutFolder { path, group } => {
                let path = path.display();
                format!(
                    "chgrp {group} {path} && chmod 710 {path}, or use a --socket in a new folder"
                )
            }
            Self::ForeignAncestor { .. } => {
                "use a --socket below folders of root and of this user only".to_owned()
            }
            Self::OpenAncestor { path, .. } => format!(
                "chmod go-w {} (or chmod +t, as /tmp has it), or use another --socket",
                path.display()
            ),
            Self::Link(_) => "use the path without links (realpath shows it)".to_owned(),
            Self::Moved(_) => "start the daemon again".to_owned(),
            Self::Locked { .. } => "use that daemon, or stop it first".to_owned(),
            Self::InUse(_) => "stop that program, or use another --socket".to_owned(),
            // Not to remove it: the path may be a mistake, such as that of a system's file.
            Self::NotASocket(path) => format!(
                "use another --socket, such as a new file in a folder of this user (what {} is: ls -ld)",
                path.display()
            ),
            Self::System { call, path, source }
                if *call == LOCK && source.raw_os_error() == Some(libc::ENOLCK) =>
            {
                format!(
                    "use a --socket on a local file system, such as /run: the one of {} has no locks \
                     (NFS without its lock service)",
                    path.display()
                )
            }
            Self::System { call, .. } if *call == SET_GROUP => {
                "run the daemon as root or as a member of the group".to_owned()
            }
            Self::System { .. } => "check that this user may write there".to_owned(),
        }
    }

    pub(crate) fn system(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { call, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_locks_and_a_read_only_one_have_different_remedies() {
        let remedy = |call, errno| {
            let source = io::Error::from_raw_os_error(errno);
            let path = "/nfs/reaperd.sock.lock".into();
            ListenError::System { call, path, source }.remedy()
        };
        let no_locks = remedy(LOCK, libc::ENOLCK);
        assert!(no_locks.contains("local file system") && no_locks.contains("/nfs/"));
        assert!(!remedy(LOCK, libc::EACCES).contains("local file system"));
        assert!(!remedy("open", libc::ENOLCK).contains("local file system"));
    }
}
