//! Where the connector does not work, and as whom it does: this test binary, started again there.

use super::*;

/// Set for the copy that runs in another place.
const ELSEWHERE: &str = "REAPER_TEST_ELSEWHERE";

/// Not a test of its own: what the others start in another place. Prints one line.
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
    let word = fixture.next_hint().await.exit.unwrap();
    println!("\nUP {word:x?} | {}", status.detail);
}

/// What it prints there. `None`, with the reason printed, where there is no such place here.
fn there(command: &[&str]) -> Option<String> {
    let binary = tempfile::tempdir().unwrap();
    let copy = binary.path().join("tests");
    // By another process: a copy that is open for writing here may be so in the children of other
    // tests, and then it cannot be run.
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
async fn nobody_may_listen_where_the_kernel_is_new_enough() {
    if !available().await {
        return;
    }
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
    ];
    let Some(line) = there(&nobody) else { return };
    let new_enough =
        procfs::KernelVersion::current().unwrap() >= procfs::KernelVersion::new(6, 6, 0);
    if new_enough {
        assert!(line.starts_with("UP MainThread(300)"), "{line}");
    } else {
        // Some vendors have what 6.6 brought in older kernels.
        assert!(
            line.starts_with("UP MainThread(300)") || line.contains("CAP_NET_ADMIN"),
            "{line}"
        );
    }
}
