//! Notifications to the service manager: `sd_notify(3)` without its library. The crate `sd-notify`
//! 0.5 neither supports abstract addresses (`@name`) nor sends without blocking.

pub(crate) mod listen_fds;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

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
    send_text(state.text(), None);
}

/// Lets the service manager keep a duplicate of this descriptor for the next start, if it does so
/// (`FileDescriptorStoreMax=`). It is lost when the service manager stops the service for good.
#[cfg(target_os = "linux")]
pub(super) fn store(name: &str, fd: &OwnedFd) {
    // Without the last field systemd removes a descriptor that becomes readable or has an error.
    send_text(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), Some(fd));
}

/// Lets the service manager close the descriptors that it keeps under this name.
#[cfg(target_os = "linux")]
pub(super) fn remove_stored(name: &str) {
    send_text(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
}

/// Returns whether this process was started by a service manager that gets notifications.
#[cfg(target_os = "linux")]
pub(super) fn has_service_manager() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn send_text(text: &str, fd: Option<&OwnedFd>) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = address(path.as_bytes()).and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        // The daemon does not wait for the service manager.
        socket.set_nonblocking(true)?;
        let Some(fd) = fd else {
            return socket.send_to_addr(text.as_bytes(), &address);
        };
        socket.connect_addr(&address)?;
        let fds = [fd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let parts = [IoSlice::new(text.as_bytes())];
        Ok(sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL)?)
    });
    if let Err(error) = sent {
        let first = text.lines().next().unwrap_or_default();
        log::warn!("cannot send {first} to the service manager: {error}");
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
