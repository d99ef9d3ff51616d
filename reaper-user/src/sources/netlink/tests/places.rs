//! The source in other namespaces and as another user: this test binary, started again there.

use super::*;

/// Set for the copy that runs elsewhere.
const ELSEWHERE: &str = "REAPER_TEST_ELSEWHERE";

/// Not a test: the others start it elsewhere. Prints one line.
#[tokio::test]
async fn elsewhere() {
    if std::env::var_os(ELSEWHERE).is_none() {
        return;
    }
    let mut fixture = Fixture::start(ClassicFilter::new(Some(std::process::id())), RECEIVE_BUFFER);
    let status = tokio::select! {
        ended = &mut fixture.running => {
            let SourceError { reason, remedy } = ended.unwrap().unwrap_err();
            println!("\nREFUSED {reason} | {remedy}");
            return;
        }
        status = fixture.board.first_report(Source::Netlink) => status,
    };
    let mut test_process = TestProcess::new();
    fixture.watch(&test_process);
    test_process.exit();
    let status_seen = fixture.next_hint().await.exit.unwrap();
    println!("\nUP {status_seen:x?} | {}", status.detail);
}

/// Returns what [`elsewhere`] prints under this command. `None`, with the reason printed, if the
/// command does not work here.
fn there(command: &[&str]) -> Option<String> {
    let binary = tempfile::tempdir().unwrap();
    let copy = binary.path().join("tests");
    // Copied by another process: children of other tests may inherit a descriptor that is open for
    // writing here, and then the copy cannot be executed.
    let copying = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&copy)
        .status();
    assert!(copying.unwrap().success());
    let open = |path| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).unwrap();
    };
    open(binary.path());
    open(&copy);
    let place = Command::new(command[0])
        .args(&command[1..])
        .arg("true")
        .output();
    if !place.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: {command:?} does not work here: {place:?}");
        return None;
    }
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .arg(&copy)
        .args([
            "--exact",
            "sources::netlink::tests::places::elsewhere",
            "--nocapture",
        ])
        .env(ELSEWHERE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    child.wait().unwrap();
    let line = output
        .lines()
        .find(|line| line.starts_with("REFUSED") || line.starts_with("UP"));
    let line = line.unwrap_or_else(|| panic!("{output}")).to_owned();
    println!("{command:?}: {line}");
    Some(line)
}

#[tokio::test]
async fn a_private_namespace_is_named_as_the_reason() {
    if !available().await {
        return;
    }
    for (flag, namespace) in [("--net", "network"), ("--pid", "pid"), ("--user", "user")] {
        if let Some(line) = there(&["unshare", flag, "--fork"]) {
            let expected = format!("REFUSED not in the initial {namespace} namespace");
            assert!(line.starts_with(&expected), "{line}");
            assert!(line.contains("--network=host --pid=host"), "{line}");
        }
    }
}

#[tokio::test]
async fn every_private_namespace_is_named() {
    if !available().await {
        return;
    }
    if let Some(line) = there(&[
        "unshare",
        "--user",
        "--map-root-user",
        "--pid",
        "--net",
        "--fork",
    ]) {
        assert!(
            line.starts_with("REFUSED not in the initial network, pid, user namespace"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn an_unprivileged_user_may_listen_on_new_kernels() {
    if !available().await {
        return;
    }
    let as_unprivileged_user = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
    ];
    let Some(line) = there(&as_unprivileged_user) else {
        return;
    };
    let new_enough =
        procfs::KernelVersion::current().unwrap() >= procfs::KernelVersion::new(6, 6, 0);
    if new_enough {
        assert!(line.starts_with("UP MainThread(300)"), "{line}");
    } else {
        // Some vendors have backported the change of 6.6.
        assert!(
            line.starts_with("UP MainThread(300)") || line.contains("CAP_NET_ADMIN"),
            "{line}"
        );
    }
}
