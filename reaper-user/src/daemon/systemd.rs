//! Notifications to the service manager: `sd_notify(3)` without its library. The crate `sd-notify`
//! 0.5 neither supports abstract addresses (`@name`) nor sends without blocking.

#[expect(dead_code, reason = "used by socket activation, which follows")]
pub(crate) mod listen_fds;

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What is reported to the service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Ready = 1,
    Stopping = 2,
}

impl State {
    #[cfg(target_os = "linux")]
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Ready),
            2 => Some(Self::Stopping),
            _ => None,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Ready => "READY=1",
            Self::Stopping => "STOPPING=1",
        }
    }
}

/// Reports a state to the service manager, through the monitor if there is one.
pub(crate) fn notify(state: State) {
    #[cfg(target_os = "linux")]
    if super::monitor::notify(state) {
        return;
    }
    send(state);
}

/// Sends one state if `NOTIFY_SOCKET` is set. A failure is only logged.
pub(super) fn send(state: State) {
    let state = state.text();
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = address(path.as_bytes()).and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        // The daemon does not wait for the service manager.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = sent {
        log::warn!("cannot send {state} to the service manager: {error}");
    }
}

fn address(path: &[u8]) -> std::io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = path.strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pathname_and_abstract_addresses_are_accepted() {
        assert!(address(b"/run/x").unwrap().as_pathname().is_some());
        #[cfg(target_os = "linux")]
        assert!(address(b"@x").unwrap().as_pathname().is_none());
    }
}
