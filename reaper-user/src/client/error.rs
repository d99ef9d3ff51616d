//! What can go wrong between a client and the daemon.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no answer, or which "no" it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no daemon on {}", path.display())]
    NoDaemon { path: PathBuf },
    /// The socket's mode or folder keeps us out.
    #[error("not allowed to connect to {}", path.display())]
    Forbidden { path: PathBuf },
    /// The connection cannot be made for another reason.
    #[error("cannot connect to {}: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    /// The daemon says no.
    #[error("{detail}")]
    Problem {
        status: u16,
        code: String,
        detail: String,
    },
    /// No answer in time.
    #[error("the daemon did not answer within {limit:?}")]
    TimedOut { limit: Duration },
    /// The connection ended in the middle.
    #[error("the connection to the daemon broke: {detail}")]
    Broken { detail: String },
    /// An answer that this client cannot read.
    #[error("{detail}")]
    Protocol { detail: String },
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        // hyper's own text names the stage, its source what happened there.
        let detail = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        if error.is_parse() {
            Self::Protocol {
                detail: format!("what answers does not speak HTTP: {detail}"),
            }
        } else {
            Self::Broken { detail }
        }
    }
}
