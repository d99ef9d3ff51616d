//! Removal of token files after the end of their sessions.
//!
//! The path comes from a client and is not trusted. A file is removed only if it is a regular file
//! of the daemon's own user, is named by a session of that user, contains exactly the token of that
//! session, and no live session has this token.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use reaper_registry::{Registry, Session, Token};
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, open, openat, statat, unlinkat};
use zeroize::Zeroizing;

use crate::clock;
use crate::hook_threads::HookThreads;

/// The length of a token file: the hex digits, without a line feed.
const LENGTH: usize = 64;

/// Removes the token files of ended sessions, on separate threads.
#[derive(Clone, Default)]
pub(crate) struct TokenFiles {
    registry: Arc<OnceLock<Registry>>,
    threads: HookThreads,
}

impl TokenFiles {
    /// Sets the registry of the tokens. No file is removed before.
    pub(crate) fn set_registry(&self, registry: &Registry) {
        self.registry.get_or_init(|| registry.clone());
    }

    /// Starts the removal of the token file of this session, which has just ended. Does not wait.
    pub(crate) fn session_ended(&self, session: &Arc<Session>) {
        let is_ours = session.owner == rustix::process::geteuid().as_raw();
        if !is_ours || session.details.token_file.is_none() {
            return;
        }
        let (registry, session) = (self.registry.clone(), session.clone());
        self.threads.run(Box::new(move || {
            let removed = registry
                .get()
                .map_or(Ok(false), |registry| remove(registry, &session));
            if let Err(error) = removed {
                // The next `reaperd run` of its owner removes it.
                log::debug!("the token file of {} is not removed: {error}", session.id);
            }
        }));
    }
}

/// Removes the file if it belongs to this session. Returns whether it did.
fn remove(registry: &Registry, session: &Session) -> io::Result<bool> {
    let uid = rustix::process::geteuid().as_raw();
    let path = session.details.token_file.as_deref().map(Path::new);
    let parts = path.and_then(|path| Some((path.parent()?, path.file_name()?)));
    let Some((folder, name)) = parts.filter(|_| session.owner == uid) else {
        return Ok(false);
    };
    let folder = open_folder(folder)?;
    let Some(token) = read(&folder, name, uid)? else {
        return Ok(false);
    };
    let is_in_use = || registry.resolve(&token, clock::now()).is_some();
    if !registry.is_token_of(&token, session) || is_in_use() {
        return Ok(false);
    }
    unlinkat(&folder, name, AtFlags::empty())?;
    Ok(true)
}

/// Opens a folder, for access to its files.
pub(crate) fn open_folder(path: &Path) -> io::Result<rustix::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// Reads the token from the file of this name. Returns `None` unless it is a regular file of
/// `owner` and contains a token.
fn read(folder: impl AsFd, name: &OsStr, owner: u32) -> io::Result<Option<Token>> {
    let folder = folder.as_fd();
    // Checked before it is opened, because opening a device can have effects.
    if !may_contain_token(&statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?, owner) {
        return Ok(None);
    }
    // NONBLOCK: if it has become a FIFO, this does not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty())?;
    if !may_contain_token(&fstat(&file)?, owner) {
        return Ok(None);
    }
    let mut text = Zeroizing::new([0; LENGTH]);
    let length = rustix::io::read(&file, text.as_mut())?;
    let text = str::from_utf8(&text[..length]).ok();
    Ok(text.and_then(|text| Token::parse(text).ok()))
}

fn may_contain_token(stat: &Stat, owner: u32) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file()
        && stat.st_uid == owner
        && usize::try_from(stat.st_size).is_ok_and(|size| size == LENGTH)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use reaper_registry::{
        Details, NewSession, Pid, Process, ProcessId, Removal, SessionId, TokenKey, Ttl,
    };

    use super::*;

    fn session(registry: &Registry, id: &str, token: u8, owner: u32, file: &Path) -> Arc<Session> {
        let new = NewSession {
            id: SessionId::new(id),
            token: Token::from_bytes([token; 32]),
            process: Process::new(ProcessId(1), Pid::new(4242).unwrap(), None),
            further: Vec::new(),
            owner,
            details: Details {
                token_file: Some(file.to_str().unwrap().into()),
                ..Details::default()
            },
            presence: None,
            ttl: Ttl::Default,
        };
        let now = clock::now();
        registry.register(new, now).unwrap().session
    }

    /// Registers a session with this file, removes it and returns whether the file was removed.
    fn is_removed(registry: &Registry, owner: u32, file: &Path) -> bool {
        let session = session(registry, "ended", 0xab, owner, file);
        registry.remove_entry(session.entry, Removal::Requested, clock::now());
        remove(registry, &session).unwrap_or(false)
    }

    #[test]
    fn only_the_token_file_of_the_ended_session_is_removed() {
        let registry = Registry::builder(TokenKey::new([7; 16])).build();
        let uid = rustix::process::geteuid().as_raw();
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        fs::write(&own, "ab".repeat(32)).unwrap();
        assert!(
            !is_removed(&registry, uid + 1, &own),
            "another user's session"
        );

        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let link = folder.path().join("link");
        symlink(&own, &link).unwrap();
        let others = [
            file("another-token", &"cd".repeat(32)),
            file("longer", &"ab".repeat(33)),
            file("with-line-feed", &format!("{}\n", "ab".repeat(32))),
            file("empty", ""),
            link,
            folder.path().to_owned(),
        ];
        for other in &others {
            assert!(!is_removed(&registry, uid, other), "{other:?}");
            assert!(other.symlink_metadata().is_ok(), "{other:?}");
        }
        for missing in ["own/..", "own/x", "absent", "absent/x"] {
            assert!(!is_removed(&registry, uid, &folder.path().join(missing)));
        }
        assert!(!is_removed(&registry, uid, Path::new("/")));
        assert!(is_removed(&registry, uid, &own));
        assert!(!own.exists());
    }

    #[test]
    fn the_file_of_a_token_in_use_again_is_kept() {
        let registry = Registry::builder(TokenKey::new([7; 16])).build();
        let uid = rustix::process::geteuid().as_raw();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "ab".repeat(32)).unwrap();
        let before = session(&registry, "before", 0xab, uid, &file);
        let after = session(&registry, "after", 0xab, uid, &file);
        assert!(
            registry.session_named(before.owner, &before.id).is_none(),
            "it must have been replaced"
        );
        assert!(!remove(&registry, &before).unwrap());
        assert!(file.exists());
        registry.remove_entry(after.entry, Removal::Requested, clock::now());
        assert!(remove(&registry, &after).unwrap());
        assert!(!file.exists());
    }

    #[test]
    fn a_token_file_of_another_user_is_not_read() {
        let uid = rustix::process::geteuid().as_raw();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "ab".repeat(32)).unwrap();
        let opened = open_folder(folder.path()).unwrap();
        let read = |owner| read(&opened, OsStr::new("token"), owner).unwrap();
        assert!(read(uid).is_some());
        assert!(read(uid + 1).is_none());
    }
}
