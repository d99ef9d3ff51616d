//! The file in which a command finds its token.
//!
//! On Linux it is a memory file that the command inherits and that ends with it: nothing stays on
//! disk, whatever kills it. It is reached as `/proc/PID/fd/N`, which the kernel opens for the same
//! user (and root) alone. A command that closes all inherited descriptors loses it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use reaper_registry::Token;

/// Writes the token where this process, and what it becomes, can read it.
pub(super) fn create(token: &Token) -> io::Result<PathBuf> {
    #[cfg(target_os = "linux")]
    match in_memory(token) {
        Ok(path) => return Ok(path),
        // No such call, or a sandbox without it.
        Err(error) => log::debug!("no memory file for the token: {error}"),
    }
    on_disk(token)
}

#[cfg(target_os = "linux")]
fn in_memory(token: &Token) -> io::Result<PathBuf> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::os::fd::{AsRawFd as _, IntoRawFd as _};

    // Not close-on-exec: the command inherits it. Never executable, where the kernel knows of that
    // (6.3) and may insist on it.
    let flags = MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("reaperd-token", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_error| memfd_create("reaperd-token", flags))?;
    let mut file = fs::File::from(memory);
    file.write_all(token.reveal().as_bytes())?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    // Without a mounted /proc, or in another pid namespace's, nobody could open it.
    crate::sys::own_proc::check()?;
    fs::metadata(&path)?;
    // Given away, not leaked: it belongs to what this process becomes.
    let _inherited = file.into_raw_fd();
    Ok(path.into())
}

fn on_disk(token: &Token) -> io::Result<PathBuf> {
    // A private folder (0700), so that the name cannot be taken by somebody else.
    let path = tempfile::Builder::new()
        .prefix("reaperd-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()?
        .keep()
        .join("session-token");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(token.reveal().as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_the_token_and_nothing_else() {
        let token = Token::from_bytes([0x5a; 32]);
        let in_memory = create(&token).unwrap();
        let on_disk = on_disk(&token).unwrap();
        for path in [&in_memory, &on_disk] {
            assert_eq!(fs::read_to_string(path).unwrap(), "5a".repeat(32));
        }
        assert_eq!(
            fs::metadata(&on_disk).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::remove_dir_all(on_disk.parent().unwrap()).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nobody_can_change_a_token_in_memory() {
        let path = create(&Token::from_bytes([1; 32])).unwrap();
        let written = fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut f| f.write(b"x"));
        assert!(written.is_err());
    }
}
