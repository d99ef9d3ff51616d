//! A connector socket: netlink-sys, and the socket options that it lacks.
//!
//! The contents of datagrams are in `cn_proc`, the filters in `cbpf`.
#![expect(
    unsafe_code,
    reason = "netlink-sys has neither socket filters nor SO_MEMINFO nor a registration with tokio"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
#[cfg(feature = "cli")]
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::sync::Arc;

use libc::{c_int, c_void, socklen_t};
use netlink_sys::protocols::NETLINK_CONNECTOR;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::check;

/// Port 0 is the kernel.
const KERNEL: u32 = 0;
/// `CN_IDX_PROC` as a bit mask of groups.
const PROC_GROUP: u32 = 1;

/// A non-blocking `NETLINK_CONNECTOR` socket. Closed on exec and on drop.
pub(crate) struct ConnectorSocket(Socket);

impl ConnectorSocket {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_CONNECTOR)?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Takes over a socket that another process has opened.
    #[cfg(feature = "cli")]
    pub(crate) fn from_fd(socket: OwnedFd) -> Self {
        // SAFETY: the descriptor is ours and open, and from here on nothing else owns it.
        Self(unsafe { Socket::from_raw_fd(socket.into_raw_fd()) })
    }

    /// Gives the socket to another process.
    #[cfg(feature = "cli")]
    pub(crate) fn into_fd(self) -> OwnedFd {
        // SAFETY: the descriptor is open, and the socket that owned it has given it up.
        unsafe { OwnedFd::from_raw_fd(self.0.into_raw_fd()) }
    }

    /// Joins the group of process events. The kernel chooses the port: the customary one, our pid,
    /// may be taken by another connector socket of this process.
    pub(crate) fn join(&mut self) -> io::Result<()> {
        self.0.bind(&SocketAddr::new(0, PROC_GROUP))
    }

    /// Requests a receive buffer, beyond the system's limit where permitted (`CAP_NET_ADMIN`).
    /// Returns the size that the kernel granted, which it counts as twice the requested one.
    pub(crate) fn enlarge_receive_buffer(&self, bytes: usize) -> io::Result<usize> {
        if sockopt::set_socket_recv_buffer_size_force(&self.0, bytes).is_err() {
            sockopt::set_socket_recv_buffer_size(&self.0, bytes)?;
        }
        Ok(sockopt::socket_recv_buffer_size(&self.0)?)
    }

    /// Registers the socket with the async runtime, until the returned value is dropped.
    pub(crate) fn readiness(
        self: &Arc<Self>,
        interest: Interest,
    ) -> io::Result<AsyncFd<Arc<Self>>> {
        // SAFETY: the registration shares the socket, which keeps one descriptor open from its
        // start to its end, so the descriptor is the same and open until the registration is
        // dropped.
        let registered = unsafe { AsyncFd::register_with_interest(Arc::clone(self), interest) };
        Ok(registered?)
    }

    /// Sends a request to the kernel.
    pub(crate) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.0
            .send_to(datagram, &SocketAddr::new(KERNEL, 0), 0)
            .map(drop)
    }

    /// Receives the next datagram; `None` if it did not come from the kernel. Any process with
    /// `CAP_NET_ADMIN` in our network namespace may send to our port.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        let (length, sender) = self.0.recv_from(&mut &mut *buffer, 0)?;
        Ok((sender.port_number() == KERNEL).then(|| &buffer[..length]))
    }

    /// Returns how many messages the kernel has dropped because the queue was full; wraps. Messages
    /// that the filter dropped do not count.
    pub(crate) fn drops(&self) -> io::Result<u32> {
        const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
        let mut words = [0_u32; DROPS + 1];
        let mut length = socklen_len(&words);
        // SAFETY: the kernel writes at most `length` bytes into `words`, which is that long, and
        // the true length into `length`; both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                words.as_mut_ptr().cast::<c_void>(),
                &raw mut length,
            )
        };
        check(result)?;
        // A kernel that knew fewer words would leave a zero, which means "nothing dropped".
        Ok(words[DROPS])
    }

    /// Replaces the socket's filter by a classic BPF program, in one step.
    pub(crate) fn attach_classic(&self, program: &[libc::sock_filter]) -> io::Result<()> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let program = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(too_long)?,
            filter: program.as_ptr().cast_mut(),
        };
        self.set_option(libc::SO_ATTACH_FILTER, &program)
    }

    /// Replaces the socket's filter by a loaded eBPF program, in one step.
    #[cfg(feature = "ebpf")]
    pub(crate) fn attach_bpf(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.set_option(libc::SO_ATTACH_BPF, &program.as_raw_fd())
    }

    /// Removes the filter: everything passes.
    pub(crate) fn detach_filter(&self) -> io::Result<()> {
        match self.set_option(libc::SO_DETACH_FILTER, &0) {
            // There was none.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    fn set_option<T>(&self, option: c_int, value: &T) -> io::Result<()> {
        // SAFETY: the kernel reads `size_of::<T>()` bytes of `value`, which is borrowed for the
        // call. Of the options above, only SO_ATTACH_FILTER follows a pointer in it: to `len`
        // instructions that its caller has borrowed; the kernel copies them and does not write.
        let result = unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const *value).cast::<c_void>(),
                socklen_len(value),
            )
        };
        check(result)
    }
}

impl AsRawFd for ConnectorSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for ConnectorSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn socklen_len<T>(value: &T) -> socklen_t {
    socklen_t::try_from(size_of_val(value)).expect("socket options are small")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_another_process_is_distinguished_from_the_kernels() {
        let mut ours = ConnectorSocket::open().unwrap();
        ours.0.bind_auto().unwrap();
        let mut own_address = SocketAddr::new(0, 0);
        ours.0.get_address(&mut own_address).unwrap();
        let unrelated = ConnectorSocket::open().unwrap();
        if let Err(error) = unrelated.0.send_to(b"forged", &own_address, 0) {
            println!("skipped: sending to another process's port requires CAP_NET_ADMIN: {error}");
            return;
        }
        assert_eq!(ours.receive(&mut [0; 64]).unwrap(), None);
        let error = ours.receive(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_filter_can_be_replaced_and_removed() {
        let socket = ConnectorSocket::open().unwrap();
        socket.detach_filter().unwrap();
        for _ in 0..2 {
            socket
                .attach_classic(&crate::sys::cbpf::all_exits())
                .unwrap();
        }
        socket.detach_filter().unwrap();
        assert!(
            socket.attach_classic(&[]).is_err(),
            "an empty program was accepted"
        );
    }
}
