//! The word to the service manager: `sd_notify(3)` without its library.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends one state, if somebody asked for it. A failure is told and changes nothing.
pub(crate) fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = address(path.as_bytes()).and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        // Never worth a wait.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = sent {
        log::warn!("cannot tell the service manager {state}: {error}");
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
    fn both_kinds_of_address_are_understood() {
        assert!(address(b"/run/x").unwrap().as_pathname().is_some());
        #[cfg(target_os = "linux")]
        assert!(address(b"@x").unwrap().as_pathname().is_none());
    }
}
