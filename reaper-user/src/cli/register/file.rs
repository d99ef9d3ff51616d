//! The file of `--token-file`: read if it exists, else created for this user alone.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use reaper_registry::Token;
use zeroize::Zeroizing;

use super::super::failure::Failure;
use super::super::{lookup, new_token};

/// More than a token and a line end.
const LONGEST: u64 = 256;

/// Where the token of a registration is.
pub(super) enum TokenPath {
    /// It is printed.
    Printed,
    Existing,
    New(PathBuf),
}

impl TokenPath {
    /// Reads the token, or creates it with its file.
    pub(super) fn open(path: &Path) -> Result<(Token, Self), Failure> {
        if path.as_os_str() == "-" {
            return Ok((new_token()?, Self::Printed));
        }
        let failed = |what: &str, error: io::Error| {
            Failure::new(
                format!("--token-file: cannot {what} {}: {error}", path.display()),
                "use a path in a folder of this user, or - to print the token",
            )
        };
        let token = new_token()?;
        let created = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match created {
            Ok(mut file) => {
                let new = Self::New(path.to_owned());
                file.write_all(token.reveal().as_bytes()).map_err(|error| {
                    new.remove_if_new();
                    failed("write", error)
                })?;
                Ok((token, new))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A pipe must not hold it up, and a link could lead to a file of somebody else.
                let file = File::options()
                    .read(true)
                    .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                    .open(path)
                    .map_err(|error| failed("open", error))?;
                Ok((read(&file, path, failed)?, Self::Existing))
            }
            Err(error) => Err(failed("create", error)),
        }
    }

    pub(super) fn is_printed(&self) -> bool {
        matches!(self, Self::Printed)
    }

    /// Removes a file that was created for nothing.
    pub(super) fn remove_if_new(&self) {
        if let Self::New(path) = self {
            fs::remove_file(path).unwrap_or_default();
        }
    }
}

fn read(
    file: &File,
    path: &Path,
    failed: impl Fn(&str, io::Error) -> Failure,
) -> Result<Token, Failure> {
    let found = file.metadata().map_err(|error| failed("read", error))?;
    let mode = found.mode() & 0o7777;
    if !found.is_file() || mode & 0o077 != 0 {
        return Err(Failure::new(
            format!(
                "--token-file: others may use {}: its mode is {mode:04o}",
                path.display()
            ),
            format!("chmod 600 {}   (or use another file)", path.display()),
        ));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Failure::new(
            format!(
                "--token-file: {} belongs to user {}, who knows its token",
                path.display(),
                found.uid()
            ),
            "use another file",
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|error| failed("read", error))?;
    lookup::parse_token(path, &text)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_new_file_is_private_and_is_read_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let (first, file) = TokenPath::open(&path).unwrap();
        assert!(matches!(file, TokenPath::New(_)));
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        let (second, file) = TokenPath::open(&path).unwrap();
        assert_eq!(first.reveal().as_str(), second.reveal().as_str());
        file.remove_if_new();
        assert!(path.exists(), "a file that existed stays");
    }

    #[test]
    fn a_file_that_others_may_read_or_that_has_no_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        TokenPath::open(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let failure = TokenPath::open(&path).err().unwrap();
        assert!(failure.message.contains("its mode is 0640"), "{failure:?}");
        assert!(failure.remedy.starts_with("chmod 600 "), "{failure:?}");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "no token").unwrap();
        assert!(TokenPath::open(&path).is_err());
        assert!(TokenPath::open(&folder.path().join("a/b")).is_err());
    }
}
