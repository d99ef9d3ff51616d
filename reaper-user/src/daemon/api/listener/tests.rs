//! Tests with real files, links, daemons and stale sockets.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener as StdListener, UnixStream};

use rustix::fs::Mode;

use super::*;
use crate::daemon::systemd::activation;

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
        .unwrap()
}

fn claim(path: &Path) -> Result<Socket, ListenError> {
    Socket::claim(path, SocketAccess::Private, AccessList::default())
}

fn refusal(path: &Path) -> ListenError {
    claim(path).err().expect("refused")
}

fn mode_of(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_socket_is_private_and_removed_at_the_end() {
    let folder = folder();
    let path = folder.path().join("made/reaperd.sock");
    let socket = claim(&path).unwrap();
    assert_eq!(mode_of(path.parent().unwrap()), 0o700);
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(
        mode_of(&folder.path().join("made/reaperd.sock.lock")),
        0o600
    );
    UnixStream::connect(&path).unwrap();
    socket.remove();
    assert!(!path.exists());
    claim(&path).unwrap().remove();
}

#[cfg(target_os = "linux")]
#[test]
fn the_socket_file_has_its_mode_from_the_start() {
    // `bind` relies on this: the file is created with the mode of the unbound socket.
    let folder = folder();
    let path = folder.path().join("s");
    let socket = unix_socket().unwrap();
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600)).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    assert_eq!(mode_of(&path), 0o600);
}

#[tokio::test]
async fn a_path_may_be_as_long_as_the_system_allows() {
    let folder = folder();
    let longest = PATH_MAX - folder.path().as_os_str().len() - 1;
    claim(&folder.path().join("x".repeat(longest)))
        .unwrap()
        .remove();
    let error = refusal(&folder.path().join("x".repeat(longest + 1)));
    assert!(
        matches!(error, ListenError::PathTooLong { length: 108, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_folder_that_others_can_write_in_or_of_another_user_or_a_link_is_refused() {
    let folder = folder();
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    for mode in [0o775, 0o757, 0o777, 0o1777] {
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = refusal(&open.join("s"));
        assert!(
            matches!(error, ListenError::OpenFolder { .. }),
            "{mode:o}: {error}"
        );
    }
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o700)).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&open, &link).unwrap();
    assert!(matches!(
        refusal(&link.join("s")),
        ListenError::NotAFolder(_)
    ));
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&open, Some(65_534), None).unwrap();
        let error = refusal(&open.join("s"));
        assert!(
            matches!(error, ListenError::NotOurFolder { owner: 65_534, .. }),
            "{error}"
        );
    } else {
        println!("skipped: a folder of another user needs root");
        assert!(!crate::testing::is_required("root"));
    }
    let missing = refusal(&folder.path().join("no/such/s"));
    assert!(matches!(
        missing,
        ListenError::System {
            call: "open folder",
            ..
        }
    ));
    assert!(matches!(
        refusal(Path::new("/")),
        ListenError::NoFileName(_)
    ));
}

#[tokio::test]
async fn a_live_daemon_is_not_disturbed() {
    let folder = folder();
    let path = folder.path().join("s");
    let socket = claim(&path).unwrap();
    let error = refusal(&path);
    assert_eq!(
        error.to_string(),
        format!(
            "a daemon (pid {}) already serves {path:?}",
            std::process::id()
        )
    );
    UnixStream::connect(&path).unwrap();
    drop(socket);
}

#[tokio::test]
async fn only_a_stale_socket_is_replaced() {
    let folder = folder();
    let path = folder.path().join("s");
    // A daemon killed while it listened, and one killed between bind and listen.
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(claim(&path).unwrap());
    let bound_only = unix_socket().unwrap();
    std::fs::remove_file(&path).unwrap();
    rustix::net::bind(&bound_only, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    claim(&path).unwrap().remove();

    let foreign = StdListener::bind(&path).unwrap();
    assert!(matches!(refusal(&path), ListenError::InUse(_)));
    drop(foreign);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(refusal(&path), ListenError::NotASocket(_)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

/// `RuntimeDirectory=` of a service creates such a folder. The mode of the socket keeps others out.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_others_can_only_enter_is_used_and_the_socket_is_private() {
    let folder = folder();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = claim(&folder.path().join("s")).unwrap();
    assert_eq!(socket.mode(), 0o600);
    socket.remove();
}

#[tokio::test]
async fn a_socket_of_the_service_manager_is_never_bound_again_or_removed() {
    let folder = folder();
    let path = folder.path().join("s");
    let listener = StdListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).unwrap();
    let mut passed = vec![("ipc".to_owned(), listener.into())];
    let passed = activation::take_socket(&mut passed).unwrap().unwrap();
    let mut socket = Socket::passed(passed).unwrap();
    assert_eq!((socket.path(), socket.mode()), (path.as_path(), 0o620));
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    socket.restore();
    assert!(!path.exists(), "it was not bound again");
    std::fs::rename(folder.path().join("moved"), &path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    socket.listener.accept().await.unwrap();
    drop(client);
    socket.remove();
    assert!(path.exists(), "it was not removed");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no lock file"
    );
}

#[tokio::test]
async fn a_removed_socket_is_bound_again() {
    let folder = folder();
    let path = folder.path().join("in/s");
    let mut socket = claim(&path).unwrap();
    let file = |socket: &Socket| socket.own.as_ref().map(|own| own.file);
    let before = file(&socket);
    socket.restore();
    assert_eq!(file(&socket), before, "unchanged while it exists");

    std::fs::remove_file(&path).unwrap();
    socket.restore();
    UnixStream::connect(&path).unwrap();

    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    socket.restore();
    UnixStream::connect(&path).unwrap();
    assert!(
        matches!(refusal(&path), ListenError::Locked { .. }),
        "the lock must be restored too"
    );
    socket.remove();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_replaced_socket_file_is_not_removed_at_the_end() {
    let folder = folder();
    let path = folder.path().join("s");
    let socket = claim(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let other = StdListener::bind(&path).unwrap();
    socket.remove();
    assert!(path.exists());
    drop(other);
}

#[test]
fn of_several_starting_daemons_one_gets_the_socket_and_the_others_leave_it_alone() {
    let folder = folder();
    let path = folder.path().join("s");
    for _ in 0..crate::testing::scaled(10_000, 200) {
        drop(StdListener::bind(&path));
        let barrier = std::sync::Barrier::new(4);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let _in = runtime.enter();
                barrier.wait();
                let claimed = claim(&path);
                barrier.wait();
                UnixStream::connect(&path).expect("the daemon that got the socket is reachable");
                barrier.wait();
                claimed.map(Socket::remove)
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    }
}

#[tokio::test]
async fn a_renamed_folder_is_replaced_at_the_path() {
    let folder = folder();
    let path = folder.path().join("in/s");
    let mut socket = claim(&path).unwrap();
    let moved = folder.path().join("moved");
    std::fs::rename(path.parent().unwrap(), &moved).unwrap();
    socket.restore();
    UnixStream::connect(&path).unwrap();
    assert!(!moved.join("s").exists(), "no listener is left behind");
    assert!(matches!(refusal(&path), ListenError::Locked { .. }));
    socket.remove();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_of_a_group_has_its_mode_and_group_in_a_folder_that_members_can_enter() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = folder();
    let group = rustix::process::getegid().as_raw();
    let path = folder.path().join("in/s");
    let socket = Socket::claim(&path, SocketAccess::Group(group), AccessList::default()).unwrap();
    let parent = path.parent().unwrap();
    assert_eq!((mode_of(parent), mode_of(&path)), (0o710, 0o660));
    assert_eq!(path.metadata().unwrap().gid(), group);
    socket.remove();

    std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o700)).unwrap();
    let error = Socket::claim(&path, SocketAccess::Group(group), AccessList::default()).err();
    let error = error.expect("members cannot enter the folder");
    assert!(matches!(error, ListenError::ShutFolder { .. }), "{error}");
    assert!(error.remedy().contains("chmod 710"), "{}", error.remedy());
}

#[tokio::test]
async fn without_a_path_through_the_descriptor_the_folder_is_compared() {
    let folder = folder();
    let path = folder.path().join("in").join("x".repeat(80));
    // The path through `/proc/self/fd` would be too long.
    let place = Place::open(&path, SocketAccess::Private).unwrap();
    assert!(
        place
            .folder
            .path_through_descriptor(&place.name, 90)
            .is_none()
    );
    claim(&path).unwrap().remove();
    std::fs::rename(path.parent().unwrap(), folder.path().join("moved")).unwrap();
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    if place
        .folder
        .path_through_descriptor(&place.name, PATH_MAX)
        .is_none()
    {
        assert!(matches!(place.address(), Err(ListenError::Moved(_))));
    }
}
