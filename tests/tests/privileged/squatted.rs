//! A client whose default path is in a folder of another user, beside a daemon of the system.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::process::Command;

use reaper_tests::daemon::{private_folder, reaperd};
use reaper_tests::expect::root_with;
use reaper_tests::user::as_user;

const SQUATTER: u32 = 2_001;
const USER: u32 = 2_002;

/// In a mount namespace, so that the paths of the system are the test's. `$1` is the program and `$2` the
/// folder of temporary files.
const SCRIPT: &str = r#"
mount -t tmpfs none /run && mkdir -m 711 /run/reaperd || exit 99
"$1" daemon --sources sweep --socket /run/reaperd/reaperd.sock --allow-uid 2002 &
daemon=$!
until [ -S /run/reaperd/reaperd.sock ]; do kill -0 $daemon || exit 98; sleep 0.05; done
TMPDIR=$2 setpriv --reuid 2002 --regid 2002 --clear-groups "$1" ls --json
code=$?
kill $daemon
wait $daemon
exit $code
"#;

#[test]
fn a_squatted_path_does_not_hide_the_daemon_of_the_system() {
    if !root_with(&["unshare", "setpriv", "mount"]) {
        return;
    }
    let folder = private_folder();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    let squatted = folder.path().join(format!("reaperd-{USER}"));
    fs::create_dir(&squatted).unwrap();
    fs::set_permissions(&squatted, Permissions::from_mode(0o755)).unwrap();
    chown(&squatted, Some(SQUATTER), Some(SQUATTER)).unwrap();
    let path = squatted.join("reaperd.sock");
    let listener = as_user(SQUATTER, || UnixListener::bind(&path).unwrap());
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .args([reaperd(), folder.path()])
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("REAPERD_SOCKET")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}\n{log}", output.status);
    assert!(
        listener.accept().is_err(),
        "the client connected to the squatter"
    );
}
