//! What a source opens with privileges: by this process, or by another one that keeps them.

use std::io;
use std::sync::OnceLock;

#[cfg(feature = "ebpf")]
use reaper_ebpf::probe::DEFAULT_WAKEUP_BYTES;

use super::{SourceError, netlink};
use crate::sys::cn_proc::Request;
use crate::sys::netlink::ConnectorSocket;

#[cfg(feature = "ebpf")]
pub(crate) use super::ebpf::attach::Attached;
#[cfg(all(feature = "ebpf", feature = "cli"))]
pub(crate) use super::ebpf::attach::Variant;
#[cfg(feature = "cli")]
pub(crate) use super::netlink::RECEIVE_BUFFER;
#[cfg(feature = "ebpf")]
pub(crate) use super::netlink::map_filter::{Loaded, Refusal};

/// Opens what sources need.
pub(crate) trait Opener: Send + Sync {
    /// Opens a socket of the proc connector with a receive buffer of about this size. Returns the size
    /// that the kernel granted. Privilege: `CAP_NET_ADMIN` for a large buffer, before 6.6 for any.
    fn connector(&self, receive_buffer: usize) -> Result<(ConnectorSocket, usize), SourceError>;

    /// Sends a request to the connector. Privilege: `CAP_NET_ADMIN` before 6.6.
    fn send(&self, socket: &ConnectorSocket, request: Request, seq: u32) -> io::Result<()>;

    /// Loads the connector's filter with a map. `own` is a thread group that always passes.
    /// Privilege: `CAP_BPF`.
    #[cfg(feature = "ebpf")]
    fn filter(&self, own: u32) -> Result<Loaded, Refusal>;

    /// Attaches the exit probe. Privilege: `CAP_BPF` and `CAP_PERFMON`.
    #[cfg(feature = "ebpf")]
    fn probe(&self, own: u32, boot_offset_ns: u64) -> Result<Attached, SourceError>;
}

/// Opens everything itself.
pub(crate) struct Direct;

impl Opener for Direct {
    fn connector(&self, receive_buffer: usize) -> Result<(ConnectorSocket, usize), SourceError> {
        netlink::open_socket(receive_buffer)
    }

    fn send(&self, socket: &ConnectorSocket, request: Request, seq: u32) -> io::Result<()> {
        socket.send(&request.encode(seq))
    }

    #[cfg(feature = "ebpf")]
    fn filter(&self, own: u32) -> Result<Loaded, Refusal> {
        Loaded::load(own)
    }

    #[cfg(feature = "ebpf")]
    fn probe(&self, own: u32, boot_offset_ns: u64) -> Result<Attached, SourceError> {
        Attached::attach(DEFAULT_WAKEUP_BYTES, own, boot_offset_ns)
    }
}

static OTHER: OnceLock<Box<dyn Opener>> = OnceLock::new();

/// Returns the opener of this process. Privileges belong to a process, so there is one for all sources.
pub(crate) fn current() -> &'static dyn Opener {
    OTHER.get().map_or(&Direct, |other| other.as_ref())
}

/// From now on sources of this process use another opener.
#[cfg(feature = "cli")]
pub(crate) fn replace(opener: impl Opener + 'static) {
    OTHER.get_or_init(|| Box::new(opener));
}
