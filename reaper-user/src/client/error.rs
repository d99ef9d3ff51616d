//! Errors of the client.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No process listens on the socket.
    #[error("no daemon is listening on {}", path.display())]
    NoDaemon {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The path names a file that is no socket.
    #[error("{} is not a socket, so no daemon is listening on it", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path of the socket is longer than the system's limit.
    #[error(
        "the socket path {} is {length} bytes long, and the system allows {max}",
        path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// The mode of the socket or its directory does not permit the connection.
    #[error("permission denied: {}", path.display())]
    Forbidden {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The program that listens on the socket belongs to another user. Nothing was sent.
    #[error(
        "the program that listens on {} belongs to user {owner}, and this user is {uid}; nothing was \
         sent",
        path.display()
    )]
    UntrustedServer {
        /// The path of the socket.
        path: PathBuf,
        /// The user who listens.
        owner: u32,
        /// The caller's user.
        uid: u32,
    },
    /// Another user owns the folder of the socket or can change it. Nothing was sent.
    #[error(
        "other users can change the folder {} of the socket (it belongs to user {owner}, and this \
         user is {uid}); nothing was sent",
        path.display()
    )]
    UntrustedFolder {
        /// The path of the folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The caller's user.
        uid: u32,
    },
    /// The connection failed for another reason.
    #[error("cannot connect to {}: {source}", path.display())]
    Connect {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The connection over TCP failed.
    #[error("cannot connect to {address}: {source}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The program that listens on this address does not know the bearer, so it is not the daemon. It got
    /// nothing that is secret.
    #[error(
        "the program that listens on {address} does not prove that it is the daemon; nothing secret was sent"
    )]
    UnprovenServer {
        /// The address.
        address: SocketAddr,
    },
    /// The bearer, which is needed over TCP, cannot be used.
    #[error("cannot use the bearer {}: {source}", path.display())]
    Bearer {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The request is possible over the socket only: no session can be presented over TCP, and responses are
    /// not confirmed.
    #[error("this request needs the socket of the daemon; it is not possible over TCP")]
    NotOverTcp,
    /// The daemon sent an error response.
    #[error("{detail}")]
    Problem {
        /// The HTTP status.
        status: u16,
        /// The machine-readable code.
        code: String,
        /// The explanation for people.
        detail: String,
    },
    /// The daemon did not respond in time.
    #[error("the daemon did not respond within {limit:?}")]
    TimedOut {
        /// The time limit of the client.
        limit: Duration,
    },
    /// The connection was lost during the request.
    #[error("lost the connection to the daemon: {detail}")]
    Broken {
        /// What happened.
        detail: String,
    },
    /// The response is not valid.
    #[error("{detail}")]
    Protocol {
        /// What is wrong with it.
        detail: String,
    },
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        // hyper's message names the stage, and its source names the cause.
        let detail = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        if error.is_parse() {
            Self::Protocol {
                detail: format!("the response is not HTTP: {detail}"),
            }
        } else {
            Self::Broken { detail }
        }
    }
}
