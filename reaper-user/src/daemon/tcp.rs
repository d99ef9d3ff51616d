//! TCP on the loopback interface: listening sockets, which are bound before the daemon divides, and the
//! second way to the API, `--tcp`.
//!
//! The kernel shows no user of a TCP connection, so each client must present the [`Bearer`], which only the
//! daemon's user can read. Before that, a client can make the daemon prove that it has the bearer too
//! ([`Bearer::proof`]): when the daemon has ended, any user can listen on its port.

mod bearer;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::net::TcpListener;

pub(crate) use bearer::{Bearer, BearerError};

/// A listening socket that is not served yet.
#[derive(Debug)]
pub(crate) struct BoundListener(StdListener);

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {purpose} on {address}: {source}")]
pub(crate) struct BindError {
    purpose: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl BoundListener {
    /// Binds the address, before the daemon divides, because its worker cannot. `purpose` is for the error.
    pub(crate) fn bind(address: SocketAddr, purpose: &'static str) -> Result<Self, BindError> {
        let bound = StdListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        match bound {
            Ok(listener) => Ok(Self(listener)),
            Err(source) => Err(BindError {
                purpose,
                address,
                source,
            }),
        }
    }

    /// Continues to listen on the socket of a former daemon, if it is one of this address.
    pub(crate) fn adopt(former: OwnedFd, address: SocketAddr) -> Option<Self> {
        let listener = StdListener::from(former);
        let bound = listener.local_addr().ok()?;
        let is_port = address.port() == 0 || address.port() == bound.port();
        (address.ip() == bound.ip() && is_port).then_some(Self(listener))
    }

    /// Prepares it to be served. Must be called within a tokio runtime.
    pub(crate) fn open(self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.0)
    }
}

/// The second way to the API.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pub(crate) bearer: Arc<Bearer>,
    /// Whether `/v1/health` needs no bearer.
    pub(crate) public_health: bool,
}

impl Door {
    /// Opens the way. Must be called within a tokio runtime.
    pub(crate) fn open(
        bound: BoundListener,
        bearer: Bearer,
        public_health: bool,
    ) -> io::Result<Self> {
        let listener = bound.open()?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            bearer: Arc::new(bearer),
            public_health,
        })
    }
}
