//! A small client of the process connector (`linux/cn_proc.h`): for tests of the kernel's behaviour, and
//! as an unrelated subscriber beside the daemon.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{bind, recv, sendto, socket_with};

/// The event types that tests distinguish: the values are also their bits in a mask since 6.6.
const FORK: u32 = 1;
const EXEC: u32 = 2;
pub const EXIT: u32 = 0x8000_0000;

/// How long to wait for an event. A kernel that does not acknowledge costs this much.
const EVENT_TIMEOUT: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// `PROC_CN_MCAST_LISTEN` and `PROC_CN_MCAST_IGNORE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Listen = 1,
    Ignore = 2,
}

/// A 76-byte datagram, as far as tests need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcEvent {
    Acknowledged(u32),
    /// A process, by its tgid, began to exist or to run another program.
    Started(u32),
    Exited(u32),
    Other,
}

/// A member of the multicast group of process events.
#[derive(Debug)]
pub struct Connector(OwnedFd);

impl Connector {
    /// Joins the group. The kernel sends nothing before [`Operation::Listen`].
    pub fn join() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let family = AddressFamily::NETLINK;
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(CONNECTOR))?;
        // Group 1 is that of process events, CN_IDX_PROC.
        bind(&socket, &SocketAddrNetlink::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Sends the request; returns whether the kernel has acknowledged this one.
    pub fn request(&self, operation: Operation) -> Result<bool, Errno> {
        let ack = 0x5ea9_e400;
        self.send(ack, &[operation as u32])?;
        while let Some(event) = self.receive() {
            if event == ProcEvent::Acknowledged(ack + 1) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Subscribes to these events alone, on kernels that have masks. It is not acknowledged.
    pub fn set_mask(&self, events: u32) -> Result<(), Errno> {
        self.send(0, &[Operation::Listen as u32, events])
    }

    /// The next event, or `None` when there is none for a second.
    ///
    /// # Panics
    ///
    /// If the kernel sends something that is not a process event.
    pub fn receive(&self) -> Option<ProcEvent> {
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        if poll(&mut ready, Some(&EVENT_TIMEOUT)).ok()? != 1 {
            return None;
        }
        let mut bytes = [0; 256];
        let (_, length) = recv(&self.0, &mut bytes, RecvFlags::empty()).ok()?;
        // All kernels send 76 bytes, and our filters do not shorten them.
        assert!(length >= 76, "a datagram of {length} bytes");
        let word = |at: usize| {
            let bytes = bytes[at..].first_chunk().expect("the length is checked");
            u32::from_ne_bytes(*bytes)
        };
        Some(match word(36) {
            0 => ProcEvent::Acknowledged(word(28)),
            FORK => ProcEvent::Started(word(64)),
            EXEC => ProcEvent::Started(word(56)),
            EXIT => ProcEvent::Exited(word(56)),
            _ => ProcEvent::Other,
        })
    }

    /// `nlmsghdr`, `cn_msg`, then the operation and, for a masked one, the mask.
    fn send(&self, ack: u32, payload: &[u32]) -> Result<(), Errno> {
        let length = u32::try_from(size_of_val(payload)).map_err(|_too_long| Errno::INVAL)?;
        let own = std::process::id();
        let done = 3;
        let header = [36 + length, done, 0, own, 1, 1, 0, ack, length];
        let words = header.iter().chain(payload);
        let bytes: Vec<u8> = words.flat_map(|word| word.to_ne_bytes()).collect();
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.0, &bytes, SendFlags::empty(), &kernel).map(drop)
    }
}

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
