//! Surroundings that do not fit: each failure names what is wrong, and a remedy that removes it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use reaper_tests::daemon::private_folder;

use super::*;

/// Runs a command with this runtime folder.
fn in_runtime_folder(folder: &Path, arguments: &[&str]) -> CommandOutput {
    CommandOutput::of(command(arguments).env("XDG_RUNTIME_DIR", folder))
}

/// The line of the remedy.
fn remedy(output: &CommandOutput) -> &str {
    let remedy = output.err.lines().find(|line| line.starts_with("  try: "));
    remedy.unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn the_runtime_folder_of_another_user_is_named_with_both_users() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give a folder to another user");
        return;
    }
    let folder = private_folder();
    chown(folder.path(), Some(65_534), None).unwrap();
    for (arguments, code) in [
        (&["ls"][..], NO_DAEMON),
        (&["run", "--", "true"], FAILED),
        (&["daemon", "--sources", "sweep"], FAILED),
    ] {
        let output = in_runtime_folder(folder.path(), arguments);
        output.failed(code, "which belongs to user 65534, and this user is 0");
        assert!(output.err.contains("XDG_RUNTIME_DIR is "), "{output:?}");
        assert!(remedy(&output).contains("XDG_RUNTIME_DIR"), "{output:?}");
    }
}

#[test]
fn a_runtime_folder_that_does_not_exist_is_named() {
    for (arguments, code) in [
        (&["ls"][..], NO_DAEMON),
        (&["run", "--", "true"], FAILED),
        (&["daemon", "--sources", "sweep"], FAILED),
    ] {
        let output = in_runtime_folder(Path::new("/nowhere/at-all"), arguments);
        output.failed(
            code,
            "XDG_RUNTIME_DIR is /nowhere/at-all, and there is no such folder",
        );
        assert!(remedy(&output).contains("XDG_RUNTIME_DIR"), "{output:?}");
    }
}

#[test]
fn a_socket_path_that_cannot_be_one_has_a_remedy_that_fits() {
    let long = format!("/tmp/{}", "x".repeat(120));
    let output = CommandOutput::of(&mut command(&["ls", "--socket", &long]));
    output.failed(FAILED, "is 125 bytes long, and the system allows 107");
    assert!(remedy(&output).contains("shorter"), "{output:?}");

    // One of this user: to connect takes the right to write.
    let folder = private_folder();
    let file = folder.path().join("file");
    fs::write(&file, "content").unwrap();
    let path = file.to_str().unwrap();
    let output = CommandOutput::of(&mut command(&["ls", "--socket", path]));
    output.failed(NO_DAEMON, &format!("{path} is not a socket"));
    assert!(!remedy(&output).contains("reaperd daemon"), "{output:?}");

    let arguments = ["daemon", "--sources", "sweep", "--socket", path];
    let output = CommandOutput::of(&mut command(&arguments));
    output.failed(FAILED, &format!("{path:?} exists and is not a socket"));
    assert!(!remedy(&output).contains("remove"), "{output:?}");
    assert_eq!(fs::read(&file).unwrap(), b"content");
}

#[test]
fn an_empty_name_is_refused_with_the_option_that_has_it() {
    let output = CommandOutput::of(&mut command(&["run", "--name", "", "--", "true"]));
    output.failed(USAGE, "--name must not be empty");
    assert!(remedy(&output).contains("give --name a text"), "{output:?}");
}
