//! `reaperd metrics`, printed and written to a file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use reaper_tests::daemon::{Launch, private_folder, reaperd};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::Deadline;

use crate::page::Page;

const NO_DAEMON: i32 = 3;

/// Runs `reaperd metrics` against this socket.
pub(crate) fn metrics(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(reaperd());
    command
        .arg("metrics")
        .arg("--socket")
        .arg(socket)
        .args(arguments);
    command
        .env_remove("REAPERD_SOCKET")
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

#[test]
fn the_file_has_what_is_printed_without_the_process_and_can_be_read_by_all() {
    let daemon = Launch::with(&["--sweep-interval", "60s"]).start();
    let living = TestProcess::start();
    daemon.register("a", living.pid());
    let printed = metrics(&daemon.socket(), &[]);
    assert!(printed.status.success(), "{printed:?}");
    let printed = Page::parse(String::from_utf8(printed.stdout).unwrap());
    assert_eq!(printed.value("reaperd_sessions"), 1.0);
    assert!(printed.value("process_open_fds") > 3.0);

    let folder = private_folder();
    let file = folder.path().join("reaperd.prom");
    let written = metrics(&daemon.socket(), &["--write", file.to_str().unwrap()]);
    assert!(
        written.status.success() && written.stdout.is_empty(),
        "{written:?}"
    );
    let page = Page::parse(fs::read_to_string(&file).unwrap());
    assert_eq!(page.value("reaperd_up"), 1.0);
    assert_eq!(page.value("reaperd_sessions"), 1.0);
    let is_of_process = |name: &&str| name.starts_with("process_");
    let names: Vec<_> = printed
        .families()
        .into_keys()
        .filter(|it| !is_of_process(it))
        .collect();
    let in_file: Vec<_> = page
        .families()
        .into_keys()
        .filter(|it| *it != "reaperd_up")
        .collect();
    assert_eq!(in_file, names);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o644
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "another file is left"
    );

    // Without a daemon no old value may stay.
    let socket = daemon.socket();
    daemon.stop();
    let failed = metrics(&socket, &["--write", file.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(NO_DAEMON), "{failed:?}");
    let page = Page::parse(fs::read_to_string(&file).unwrap());
    assert_eq!(page.value("reaperd_up"), 0.0);
    assert_eq!(page.families().len(), 1);
}

#[test]
fn a_file_that_cannot_be_written_is_named_with_a_remedy() {
    let daemon = Launch::with(&[]).start();
    let folder = private_folder();
    let missing = folder.path().join("missing/reaperd.prom");
    let failed = metrics(&daemon.socket(), &["--write", missing.to_str().unwrap()]);
    let complaint = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("missing/reaperd.prom") && complaint.contains("try:"),
        "{complaint}"
    );
    let wrong = metrics(&daemon.socket(), &["--write", "metrics.txt"]);
    assert_eq!(wrong.status.code(), Some(2));
    daemon.stop();
}

#[test]
fn readers_of_the_file_never_see_a_part_of_it() {
    let daemon = Launch::with(&[]).start();
    let folder = private_folder();
    let file = folder.path().join("reaperd.prom");
    let write = || {
        let written = metrics(&daemon.socket(), &["--write", file.to_str().unwrap()]);
        assert!(written.status.success(), "{written:?}");
    };
    write();
    let done = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&file).unwrap();
                assert!(text.starts_with("# HELP reaperd_build_info "), "{text:.80}");
                assert!(text.ends_with("\nreaperd_up 1\n"));
                reads += 1;
            }
            reads
        });
        for _ in 0..20 {
            write();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    println!("{reads} reads during 20 writes");
    assert!(reads > 20);
    daemon.stop();
}

#[test]
fn a_daemon_that_does_not_respond_delays_the_command_by_seconds_only() {
    let daemon = Launch::with(&[]).start();
    let folder = private_folder();
    let file = folder.path().join("reaperd.prom");
    daemon.suspend();
    let clock = Deadline::after(std::time::Duration::from_secs(20));
    let failed = metrics(&daemon.socket(), &["--write", file.to_str().unwrap()]);
    daemon.resume();
    assert!(
        !failed.status.success() && !clock.has_passed(),
        "{failed:?}"
    );
    assert_eq!(
        Page::parse(fs::read_to_string(&file).unwrap()).value("reaperd_up"),
        0.0
    );
    daemon.stop();
}
