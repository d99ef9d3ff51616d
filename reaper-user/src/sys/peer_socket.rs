//! What the kernel keeps about the process at the other end of a Unix socket, beyond its credentials:
//! a pidfd (Linux 6.5) and the supplementary groups (Linux 4.13).
#![expect(unsafe_code, reason = "two socket options that rustix does not have")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::Errno;

/// The largest number of groups of a process (`NGROUPS_MAX`: getgroups(2)).
const GROUPS_MAX: usize = 65_536;

/// Opens a pidfd of the process that connected. From Linux 6.16 on it is also given for a process
/// that has been reaped.
pub(crate) fn pidfd(socket: impl AsFd) -> Result<OwnedFd, Errno> {
    let mut pidfd: RawFd = -1;
    let length = option(socket, libc::SO_PEERPIDFD, std::slice::from_mut(&mut pidfd))?;
    if length != size_of::<RawFd>() || pidfd < 0 {
        return Err(Errno::PROTO);
    }
    // SAFETY: the kernel has just opened this descriptor for us, and no other code has it.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// Returns the supplementary groups that the process had when it connected.
pub(crate) fn groups(socket: impl AsFd) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0_u32; 64];
    match option(&socket, libc::SO_PEERGROUPS, &mut groups) {
        Err(Errno::RANGE) => {
            groups.resize(GROUPS_MAX, 0);
            let length = option(&socket, libc::SO_PEERGROUPS, &mut groups)?;
            groups.truncate(length / size_of::<u32>());
        }
        length => groups.truncate(length? / size_of::<u32>()),
    }
    Ok(groups)
}

/// Reads a socket option into these numbers. Returns the length in bytes.
fn option<T: Copy>(socket: impl AsFd, name: libc::c_int, into: &mut [T]) -> Result<usize, Errno> {
    let mut length = libc::socklen_t::try_from(size_of_val(into)).unwrap_or_default();
    // SAFETY: the descriptor is open for the length of the call, and the kernel writes at most
    // `length` bytes into the slice, whose elements are integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            into.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
    }
    Ok(usize::try_from(length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_shows_its_groups() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let mut seen = groups(&socket).unwrap();
        let own = rustix::process::getgroups().unwrap();
        let mut own: Vec<u32> = own.into_iter().map(rustix::process::Gid::as_raw).collect();
        seen.sort_unstable();
        own.sort_unstable();
        assert_eq!(seen, own);
    }
}
