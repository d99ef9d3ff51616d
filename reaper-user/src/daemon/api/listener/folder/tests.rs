//! Paths through folders of others, links, and folders that are exchanged meanwhile.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener as StdListener;

use super::super::{AccessList, Socket};
use super::*;
use crate::testing::skip_without;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// What a socket that listens needs.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn open(socket: &Path) -> Result<Folder, ListenError> {
    Folder::of_socket(socket, SocketAccess::Private)
}

fn refusal(socket: &Path) -> ListenError {
    open(socket).err().expect("refused")
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_in_which_others_may_replace_files_is_refused_anywhere_in_the_path() {
    let top = folder();
    let shared = top.path().join("shared");
    fs::create_dir_all(shared.join("a")).unwrap();
    for socket in [shared.join("in/s"), shared.join("a/in/s")] {
        for mode in [0o777, 0o770, 0o702] {
            set_mode(&shared, mode);
            let error = refusal(&socket);
            assert!(
                matches!(&error, ListenError::OpenAncestor { path, .. } if *path == shared),
                "{mode:o}: {error}"
            );
            assert!(error.remedy().contains("chmod"), "{}", error.remedy());
            assert!(!socket.parent().unwrap().exists(), "nothing was created");
        }
        for mode in [0o1777, 0o755] {
            set_mode(&shared, mode);
            open(&socket).unwrap();
        }
    }
}

#[test]
fn a_folder_of_another_user_in_the_path_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return skip_without("root", "it needs a folder of another user");
    }
    let top = folder();
    let foreign = top.path().join("foreign");
    fs::create_dir_all(foreign.join("own")).unwrap();
    chown(&foreign, Some(2_001), None).unwrap();
    let error = refusal(&foreign.join("own/in/s"));
    assert!(
        matches!(error, ListenError::ForeignAncestor { owner: 2_001, .. }),
        "{error}"
    );
}

#[test]
fn a_link_is_followed_only_if_root_created_it_in_a_folder_of_root() {
    let top = folder();
    let target = top.path().join("target");
    fs::create_dir(&target).unwrap();
    let link = top.path().join("link");
    symlink("target", &link).unwrap();
    let loop_link = top.path().join("loop");
    symlink("loop", &loop_link).unwrap();
    let through = link.join("in/s");
    let is_refused = |path: &Path| matches!(refusal(path), ListenError::Link(_));
    assert!(is_refused(&loop_link.join("in/s")));
    if !rustix::process::geteuid().is_root() {
        assert!(is_refused(&through));
        return skip_without("root", "no link of root is tried");
    }
    let folder = open(&through).unwrap();
    assert!(target.join("in").exists() && folder.is_at_its_path());
    fs::remove_file(&link).unwrap();
    symlink(&target, &link).unwrap();
    open(&through).unwrap();
    // A link of another user, in a folder where he could create it.
    set_mode(top.path(), 0o1777);
    std::os::unix::fs::lchown(&link, Some(2_001), None).unwrap();
    assert!(is_refused(&through));
}

#[test]
fn the_last_component_is_never_a_link() {
    let top = folder();
    fs::create_dir(top.path().join("target")).unwrap();
    symlink("target", top.path().join("link")).unwrap();
    let error = refusal(&top.path().join("link/s"));
    assert!(matches!(error, ListenError::NotAFolder(_)), "{error}");
    symlink("nowhere", top.path().join("dangling")).unwrap();
    let error = refusal(&top.path().join("dangling/s"));
    assert!(matches!(error, ListenError::NotAFolder(_)), "{error}");
}

/// Creates a folder with files that no daemon may touch, though they have the names of its own.
fn create_outside(folder: &Path) -> StdListener {
    let run = folder.join("run");
    fs::create_dir_all(&run).unwrap();
    // Open to others, so that no daemon accepts it.
    set_mode(&run, 0o775);
    fs::write(run.join("s.lock"), "precious").unwrap();
    let listener = StdListener::bind(run.join("s")).unwrap();
    set_mode(&run.join("s"), 0o640);
    listener
}

fn check_untouched(folder: &Path) {
    let run = folder.join("run");
    let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&run), mode(&run.join("s"))), (0o775, 0o640));
    assert_eq!(fs::read_to_string(run.join("s.lock")).unwrap(), "precious");
    assert_eq!(fs::read_dir(&run).unwrap().count(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn exchanging_folders_of_the_path_never_leads_outside() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    use crate::clock::Deadline;
    use crate::testing::scaled;

    let top = folder();
    let (inside, outside) = (top.path().join("in"), top.path().join("out"));
    fs::create_dir(&inside).unwrap();
    let _listener = create_outside(&outside);
    let runtime = runtime();
    let _in = runtime.enter();
    let exchange = || renameat_with(CWD, &inside, CWD, &outside, RenameFlags::EXCHANGE);
    if exchange().and_then(|()| exchange()).is_err() {
        return skip_without("exchange", "the file system cannot exchange two names");
    }
    let (is_done, exchanges) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut done = 0;
            while !is_done.load(Ordering::Relaxed) || done % 2 == 1 {
                exchange().unwrap();
                done = exchanges.fetch_add(1, Ordering::Relaxed) + 1;
                // Pauses of all lengths up to that of a start.
                (0..done % 32 * 200).for_each(|_| std::hint::spin_loop());
            }
        });
        let deadline = Deadline::after(Duration::from_mins(2));
        let mut claims = 0;
        while claims < scaled(2_000, 100) || exchanges.load(Ordering::Relaxed) < scaled(10_000, 500)
        {
            assert!(
                !deadline.has_passed(),
                "{claims} starts, {exchanges:?} exchanges"
            );
            if let Ok(mut socket) = Socket::claim(
                &inside.join("run/s"),
                SocketAccess::Private,
                AccessList::default(),
            ) {
                claims += 1;
                socket.restore();
                socket.remove();
            }
        }
        is_done.store(true, Ordering::Relaxed);
    });
    // After an even number of exchanges each folder has its own name.
    check_untouched(&outside);
}

#[test]
fn every_step_after_opening_stays_in_the_opened_folder() {
    let top = folder();
    let (inside, outside) = (top.path().join("in"), top.path().join("out"));
    fs::create_dir(&inside).unwrap();
    let _listener = create_outside(&outside);
    let runtime = runtime();
    let _in = runtime.enter();
    let socket = Socket::claim(
        &inside.join("run/s"),
        SocketAccess::Private,
        AccessList::default(),
    )
    .unwrap();
    let away = top.path().join("away");
    fs::rename(&inside, &away).unwrap();
    fs::rename(&outside, &inside).unwrap();
    socket.remove();
    check_untouched(&inside);
    assert!(!away.join("run/s").exists(), "it removes its own socket");
}
