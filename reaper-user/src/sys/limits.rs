//! The limit of open descriptors. rustix assumes that reading it cannot fail. If a seccomp filter
//! makes it fail, rustix returns uninitialised values.
#![expect(unsafe_code, reason = "rustix has no getrlimit that can fail")]

use std::io;

use rustix::process::Rlimit;

use super::check;

/// Returns how many descriptors this process may have open.
pub(crate) fn open_files() -> io::Result<Rlimit> {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes one structure, which is a local (getrlimit(2)).
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) })?;
    Ok(Rlimit {
        current: unless_infinite(limits.rlim_cur),
        maximum: unless_infinite(limits.rlim_max),
    })
}

/// The type is signed on FreeBSD and not elsewhere.
fn unless_infinite(limit: libc::rlim_t) -> Option<u64> {
    if limit == libc::RLIM_INFINITY {
        return None;
    }
    u64::try_from(i128::from(limit)).ok()
}
