//! Socket activation: the listening socket that the service manager passes. Who connects before the daemon
//! runs waits in its queue.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FileType, Stat};
use rustix::net::sockopt::socket_type;
use rustix::net::{SocketAddrUnix, SocketType, getsockname};

use crate::sys::mode_of;

/// The names that select one of several: that of the unit `reaperd.socket`, which is the default, and a
/// short one for `FileDescriptorName=`.
const NAMES: [&str; 2] = ["reaperd.socket", "ipc"];

/// A listening Unix socket that another process has bound.
#[derive(Debug)]
pub(crate) struct PassedSocket {
    pub(crate) socket: OwnedFd,
    pub(crate) path: PathBuf,
    /// The file at the path, whose mode and group say who can connect.
    pub(crate) file: Stat,
}

/// Why a passed socket cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("the service manager passes {0} listening sockets, and none or several have the name {name}", name = NAMES[0])]
    Several(usize),
    #[error("the file {0:?} of the passed socket cannot be found")]
    NoFile(PathBuf),
}

/// Takes the listening socket out of the descriptors that were passed: the one with the expected name, or
/// the only one. Others stay.
pub(crate) fn take_socket(
    passed: &mut Vec<(String, OwnedFd)>,
) -> Result<Option<PassedSocket>, Unusable> {
    let sockets: Vec<_> = (0..passed.len())
        .filter_map(|at| Some((at, path_of_listener(&passed[at].1)?)))
        .collect();
    let is_named = |(at, _): &&(usize, PathBuf)| NAMES.contains(&passed[*at].0.as_str());
    let named: Vec<_> = sockets.iter().filter(is_named).cloned().collect();
    let (at, path) = match (sockets.as_slice(), named.as_slice()) {
        ([], _) => return Ok(None),
        ([only], _) | (_, [only]) => only.clone(),
        (several, _) => return Err(Unusable::Several(several.len())),
    };
    let file = rustix::fs::stat(&path).ok();
    let is_socket = |file: &Stat| FileType::from_raw_mode(file.st_mode) == FileType::Socket;
    let Some(file) = file.filter(is_socket) else {
        return Err(Unusable::NoFile(path));
    };
    let (_, socket) = passed.remove(at);
    Ok(Some(PassedSocket { socket, path, file }))
}

/// Returns the path of a Unix stream socket that listens; `None` for every other descriptor.
fn path_of_listener(fd: impl AsFd) -> Option<PathBuf> {
    let is_listening = listens(&fd) && socket_type(&fd).ok()? == SocketType::STREAM;
    let address = SocketAddrUnix::try_from(getsockname(&fd).ok().filter(|_| is_listening)?).ok()?;
    let path = address.path()?;
    Some(PathBuf::from(path.to_string_lossy().into_owned()))
}

#[cfg(target_os = "linux")]
fn listens(fd: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false)
}

/// Other systems have no service manager that passes sockets.
#[cfg(not(target_os = "linux"))]
fn listens(_fd: impl AsFd) -> bool {
    false
}

impl PassedSocket {
    /// Returns the group whose members can connect besides the owner.
    pub(crate) fn group(&self) -> Option<u32> {
        (self.mode() & 0o020 != 0).then_some(self.file.st_gid)
    }

    pub(crate) fn mode(&self) -> u32 {
        mode_of(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listener(folder: &std::path::Path, name: &str) -> OwnedFd {
        UnixListener::bind(folder.join(name)).unwrap().into()
    }

    fn chosen(names: &[&str]) -> Result<Option<String>, Unusable> {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap().into();
        let mut passed = vec![("reaperd.socket".to_owned(), file)];
        for (at, name) in names.iter().enumerate() {
            passed.push(((*name).to_owned(), listener(folder.path(), &at.to_string())));
        }
        let before = passed.len();
        let taken = take_socket(&mut passed)?;
        assert_eq!(passed.len() + usize::from(taken.is_some()), before);
        Ok(taken.map(|it| it.path.file_name().unwrap().to_str().unwrap().to_owned()))
    }

    #[test]
    fn the_only_socket_or_the_named_one_is_taken_and_nothing_else() {
        assert_eq!(chosen(&[]), Ok(None), "a file with the name is no socket");
        assert_eq!(chosen(&["x"]), Ok(Some("0".to_owned())));
        assert_eq!(chosen(&["x", "ipc"]), Ok(Some("1".to_owned())));
        assert_eq!(
            chosen(&["x", "reaperd.socket", "y"]),
            Ok(Some("1".to_owned()))
        );
        assert_eq!(chosen(&["x", "y"]), Err(Unusable::Several(2)));
        assert_eq!(chosen(&["ipc", "ipc"]), Err(Unusable::Several(2)));
    }

    #[test]
    fn a_socket_that_does_not_listen_is_left() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut passed = vec![("ipc".to_owned(), ours.into())];
        assert!(take_socket(&mut passed).unwrap().is_none());
        assert_eq!(passed.len(), 1);
    }

    #[test]
    fn a_socket_whose_file_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut passed = vec![("ipc".to_owned(), listener(folder.path(), "s"))];
        std::fs::remove_file(folder.path().join("s")).unwrap();
        let error = take_socket(&mut passed).unwrap_err();
        assert_eq!(error, Unusable::NoFile(folder.path().join("s")));
    }
}
