//! The service manager: reports to it (`sd_notify(3)`) and what it passes.
//!
//! The reports are sent without its library. The crate `sd-notify` 0.5 neither supports abstract addresses
//! (`@name`) nor sends without blocking.

pub(crate) mod activation;
pub(crate) mod listen_fds;
pub(crate) mod reports;

use std::fmt;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reports::Summary;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};

use crate::clock;
use crate::sys::NO_SIGNAL;

/// What is reported to the service manager. It passes the monitor as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The daemon serves, at the start and after a reload.
    Ready,
    Stopping,
    /// The options are read again. `Ready` follows.
    Reloading,
    /// The loop that removes dead processes runs.
    Alive,
    /// The start takes up to this long from now on.
    StartsWithin(Duration),
    /// The line that `systemctl status` shows.
    Status(Summary),
}

/// A [`State`] as the numbers of a message between worker and monitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) kind: u8,
    pub(super) words: [u32; 2],
    pub(super) value: u64,
}

impl State {
    pub(super) fn encode(self) -> Encoded {
        let kind = |kind| Encoded {
            kind,
            ..Encoded::default()
        };
        match self {
            Self::Ready => kind(1),
            Self::Stopping => kind(2),
            Self::Reloading => kind(3),
            Self::Alive => kind(4),
            Self::StartsWithin(time) => Encoded {
                value: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
                ..kind(5)
            },
            Self::Status(summary) => Encoded {
                words: [summary.sessions, summary.sources.bits()],
                value: summary.lost,
                ..kind(6)
            },
        }
    }

    /// Returns `None` for an unknown kind.
    #[cfg(target_os = "linux")]
    pub(super) fn decode(encoded: Encoded) -> Option<Self> {
        let Encoded { kind, words, value } = encoded;
        Some(match kind {
            1 => Self::Ready,
            2 => Self::Stopping,
            3 => Self::Reloading,
            4 => Self::Alive,
            5 => Self::StartsWithin(Duration::from_micros(value)),
            6 => Self::Status(Summary {
                sessions: words[0],
                sources: reports::Sources::from_bits(words[1]),
                lost: value,
            }),
            _ => return None,
        })
    }
}

/// The text of the message.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("READY=1"),
            Self::Stopping => f.write_str("STOPPING=1"),
            Self::Reloading => {
                let now_us = clock::monotonic_ns() / 1_000;
                write!(f, "RELOADING=1\nMONOTONIC_USEC={now_us}")
            }
            Self::Alive => f.write_str("WATCHDOG=1"),
            Self::StartsWithin(time) => write!(f, "EXTEND_TIMEOUT_USEC={}", time.as_micros()),
            Self::Status(summary) => write!(f, "STATUS={summary}"),
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

/// Sends one state.
pub(super) fn send(state: State) {
    send_text(&state.to_string(), None);
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

/// Sends a message if `NOTIFY_SOCKET` is set. A failure is only logged, and a lasting one once.
fn send_text(text: &str, fd: Option<&OwnedFd>) {
    static HAS_FAILED: AtomicBool = AtomicBool::new(false);
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
        Ok(sendmsg(&socket, &parts, &mut control, NO_SIGNAL)?)
    });
    let had_failed = HAS_FAILED.swap(sent.is_err(), Ordering::Relaxed);
    if let (Err(error), false) = (sent, had_failed) {
        log::warn!("cannot send {text:?} to the service manager: {error}");
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

    #[cfg(target_os = "linux")]
    #[test]
    fn a_state_passes_the_monitor_unchanged() {
        let summary = Summary {
            sessions: 12,
            sources: reports::Sources::from_bits(0x0403_0201),
            lost: u64::MAX,
        };
        for state in [
            State::Ready,
            State::Stopping,
            State::Reloading,
            State::Alive,
            State::StartsWithin(Duration::from_secs(7)),
            State::Status(summary),
        ] {
            assert_eq!(State::decode(state.encode()), Some(state));
        }
        for kind in [0, 7, 255] {
            let unknown = Encoded {
                kind,
                ..Encoded::default()
            };
            assert_eq!(State::decode(unknown), None);
        }
    }

    #[test]
    fn a_reload_has_the_time_that_the_service_manager_compares() {
        let text = State::Reloading.to_string();
        let time = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.parse::<u64>().unwrap() > 0);
    }
}
