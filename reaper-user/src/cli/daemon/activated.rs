//! The socket that the service manager passes, and the options that contradict it.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::SOCKET;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::daemon::config::DaemonOptions;
use crate::daemon::config::layers::Configuration;
use crate::daemon::systemd::activation::{self, PassedSocket, Unusable};

/// Takes the socket out of the descriptors that were passed. Others stay.
pub(super) fn take(passed: &mut Vec<(String, OwnedFd)>) -> Result<Option<PassedSocket>, Failure> {
    activation::take_socket(passed).map_err(|error| {
        let remedy = match error {
            Unusable::Several(_) => "pass one socket: one ListenStream= in reaperd.socket",
            Unusable::NoFile(_) => "systemctl restart reaperd.socket",
        };
        conflict(error.to_string(), remedy)
    })
}

/// Returns the options that the socket decides, as flags, if nothing contradicts it. The members of its group
/// are served, as its mode promises.
pub(super) fn settings(
    passed: &PassedSocket,
    configuration: &Configuration,
    options: &DaemonOptions,
) -> Result<[(String, String); 2], Failure> {
    let path = passed.path.display();
    let given = configuration.setting(SOCKET);
    let given = given.map_or("", |setting| setting.text.as_str());
    if !given.is_empty() && Path::new(given) != passed.path {
        return Err(conflict(
            format!(
                "the service manager passes the socket {path}, and --socket, REAPERD_SOCKET or a file names \
                 {given}"
            ),
            "remove the option socket, or set ListenStream= of the socket unit",
        ));
    }
    // The daemon may write into no folder then, and so have neither bearer nor pid file.
    let needs_folder = [
        ("profile", options.profile.is_some()),
        ("tcp", options.tcp_address().is_some()),
    ];
    if let Some((name, _)) = needs_folder.into_iter().find(|(_, is_set)| *is_set) {
        return Err(conflict(
            format!(
                "the service manager passes the socket {path}, and the option {name} needs one of the daemon's own"
            ),
            "remove the option, or start the daemon without a socket unit",
        ));
    }
    let group = passed.group();
    if options.socket_group.is_some() && options.socket_group != group {
        return Err(conflict(
            format!(
                "the socket {path} of the service manager is not open to the group of --socket-group"
            ),
            "set SocketGroup= and SocketMode=0660 of the socket unit instead of --socket-group",
        ));
    }
    let group = group.map_or_else(String::new, |group| group.to_string());
    Ok([
        (SOCKET.to_owned(), path.to_string()),
        ("socket-group".to_owned(), group),
    ])
}

/// Warns if the mode of the socket promises more than the options keep.
pub(super) fn warn_if_open_to_all(passed: &PassedSocket, options: &DaemonOptions) {
    if passed.mode() & 0o002 != 0 && options.allow_uids.is_empty() {
        log::warn!(
            "every user can connect to {} (mode {:04o}), and those who are not served get an error: set \
             SocketMode= of the socket unit",
            passed.path.display(),
            passed.mode()
        );
    }
}

/// The socket of the service manager and the options contradict each other.
fn conflict(message: String, remedy: &str) -> Failure {
    Failure {
        code: ExitCode::Usage,
        ..Failure::new(message, remedy)
    }
}
