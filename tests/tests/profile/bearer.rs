//! The file of the bearer, and the proof that comes before it.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use hmac_sha256::HMAC;
use reaper_tests::daemon::{Launch, TestDaemon};

use crate::{ANY_PORT, address, bearer, beside_socket, error, over_socket, over_tcp, with_tcp};

const NONCE: &str = "00112233445566778899aabbccddeeff";

/// What a client computes, from the file and from the address that it has connected to.
fn expected(bearer: &str, address: &str, nonce: &str) -> String {
    let signed = format!("reaperd-proof-v1\n{address}\n{nonce}");
    let mac = HMAC::mac(signed, bearer);
    mac.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

#[test]
fn the_daemon_proves_that_it_has_the_bearer_before_a_client_sends_it() {
    let daemon = with_tcp(&[]);
    let (address, bearer) = (address(&daemon), bearer(&daemon));
    let ask = |nonce: &str| {
        let line = format!("GET /v1/proof?nonce={nonce}");
        over_tcp(&address, &line, "Host: localhost\r\n")
    };
    for nonce in [NONCE, &NONCE.repeat(4), &"AbCd".repeat(9)] {
        let (status, body) = ask(nonce);
        assert_eq!(status, 200);
        assert_eq!(body["address"], address.as_str());
        assert_eq!(body["proof"], expected(&bearer, &address, nonce).as_str());
    }
    assert_ne!(
        ask(NONCE).1["proof"],
        expected(&bearer, "[::1]:1", NONCE).as_str()
    );
    for wrong in ["", &NONCE[1..], &"a".repeat(129), &"zz".repeat(20)] {
        assert_eq!(ask(wrong).0, 400, "{wrong:?}");
    }
    let on_socket = over_socket(&daemon, &format!("GET /v1/proof?nonce={NONCE}"), "");
    assert_eq!(error(&on_socket), (404, "not found"));
}

#[test]
fn the_file_is_private_and_kept() {
    let daemon = with_tcp(&[]);
    let path = beside_socket(&daemon, "local-token");
    let first = fs::read_to_string(&path).unwrap();
    assert_eq!(first.len(), 44);
    assert!(first.ends_with('\n'));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let daemon = daemon.replaced_by(&Launch::with(&ANY_PORT));
    assert_eq!(fs::read_to_string(&path).unwrap(), first);
    // Deleting it and a restart change it.
    fs::remove_file(&path).unwrap();
    let daemon = daemon.replaced_by(&Launch::with(&ANY_PORT));
    assert_ne!(fs::read_to_string(&path).unwrap(), first);
    assert!(!daemon.log().contains(first.trim()));
    daemon.stop();
}

/// Starts a daemon with TCP where another one has run, whose file was changed. It must refuse.
fn refused_with(change: impl FnOnce(&TestDaemon)) -> String {
    let mut daemon = with_tcp(&[]);
    daemon.kill();
    change(&daemon);
    let child = daemon.spawn_beside(&Launch::with(&ANY_PORT));
    let ended = child.wait_with_output().unwrap();
    let log = daemon.log();
    assert_eq!(ended.status.code(), Some(1), "{log}");
    log
}

#[test]
fn a_file_that_others_may_know_or_have_put_there_is_refused() {
    let path = |daemon: &TestDaemon| beside_socket(daemon, "local-token");
    for mode in [0o644, 0o620, 0o604] {
        let log = refused_with(|daemon| {
            fs::set_permissions(path(daemon), Permissions::from_mode(mode)).unwrap();
        });
        assert!(log.contains(&format!("mode {mode:04o}")), "{log}");
        assert!(log.contains("try: rm "), "{log}");
    }
    let log = refused_with(|daemon| {
        let other = beside_socket(daemon, "other");
        fs::rename(path(daemon), &other).unwrap();
        symlink(&other, path(daemon)).unwrap();
    });
    assert!(log.contains("is not a file of mode 0600"), "{log}");
    for wrong in [
        "",
        "short\n",
        "with blanks in it, and as long as a real bearer\n",
    ] {
        let log = refused_with(|daemon| fs::write(path(daemon), wrong).unwrap());
        assert!(log.contains("is not a bearer"), "{log}");
    }
    if reaper_tests::expect::root_with(&[]) {
        let log = refused_with(|daemon| chown(path(daemon), Some(2_001), None).unwrap());
        assert!(log.contains("belongs to user 2001"), "{log}");
    }
}
