//! Nothing about a command, its folder or its surroundings keeps it from being run; what the user
//! typed is refused where it cannot be used.

use std::os::unix::fs::symlink;

use super::*;

/// A shell under a name of 254 bytes, in a folder with a line feed in its name.
fn oddly_named_shell(place: &Path) -> (PathBuf, PathBuf) {
    let folder = place.join("line\nfeed");
    fs::create_dir(&folder).unwrap();
    let shell = folder.join(format!("\u{1b}[31m\u{202e}{}", "é".repeat(120)));
    symlink("/bin/sh", &shell).unwrap();
    (folder, shell)
}

#[test]
fn an_odd_name_in_an_odd_folder_is_run_and_shown_as_far_as_it_can_be() {
    let harness = Harness::new();
    let place = tempfile::tempdir().unwrap();
    let (folder, shell) = oddly_named_shell(place.path());
    let script = format!("{SAY_TOKEN}; exec sleep 600");
    let mut run = harness.run(&["--", shell.to_str().unwrap(), "-c", &script]);
    let mut launched = Launched::start(run.current_dir(&folder));
    let (token, id) = launched.session();
    assert!(harness.daemon.accepts(&token));
    let listed = harness.daemon.list();
    assert_eq!(listed[0].session_id, id);
    let name = &*listed[0].display_name;
    // Cut between two characters: 122 of 128 bytes are left for those of two bytes.
    assert_eq!(name, format!("_[31m_{}", "é".repeat(61)));
    assert!(name.len() <= 128);
    let list: serde_json::Value = harness.daemon.get("/v1/sessions").unwrap();
    let cwd = &list["sessions"][0]["cwd"];
    assert!(cwd.is_null(), "a changed path names another folder: {cwd}");
    launched.kill();
    harness.leaves_nothing();
}

#[test]
fn a_command_without_a_name_to_show_has_a_name_all_the_same() {
    let harness = Harness::new();
    let place = tempfile::tempdir().unwrap();
    let shell = place.path().join(" ");
    symlink("/bin/sh", &shell).unwrap();
    let script = format!("{SAY_TOKEN}; exec sleep 600");
    let mut run = harness.run(&["--", shell.to_str().unwrap(), "-c", &script]);
    let mut launched = Launched::start(&mut run);
    launched.session();
    assert_eq!(&*harness.daemon.list()[0].display_name, "command");
    launched.kill();
    harness.leaves_nothing();
}

#[test]
fn a_folder_that_was_deleted_keeps_nothing_from_being_run() {
    let harness = Harness::new();
    let script = "mkdir gone && cd gone && rmdir ../gone && exec \"$REAPERD\" run -- /bin/echo ran";
    let place = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(place.path());
    harness.surround(&mut shell);
    assert_eq!(CommandOutput::by(shell.output().unwrap()).done(), "ran\n");
    harness.leaves_nothing();
}

#[test]
fn flags_that_cannot_be_used_are_refused_by_name() {
    let harness = Harness::new();
    let long = "x".repeat(129);
    let group = "g".repeat(65);
    let many = ["--group", "g"].repeat(65);
    for (flags, sentence) in [
        (
            &["--name", "a\nb"][..],
            "--name must not hold control characters",
        ),
        (&["--name", ""], "--name must not be empty"),
        (&["--mesh", " "], "--mesh must not be empty"),
        (
            &["--mesh", &long],
            "--mesh must not be longer than 128 bytes",
        ),
        (
            &["--role", "\u{202e}"],
            "--role must not hold control characters",
        ),
        (
            &["--group", &group],
            "--group must not be longer than 64 bytes",
        ),
        (&many, "--group must not be given more than 64 times"),
    ] {
        let command: &[&str] = &["--best-effort", "--", "true"];
        let output = CommandOutput::by(harness.run(&[flags, command].concat()).output().unwrap());
        output.failed(super::super::USAGE, sentence);
    }
    harness.leaves_nothing();
}

#[test]
fn no_token_from_outside_reaches_the_command() {
    let harness = Harness::new();
    let script = "echo \"${CLAUDEMESH_IPC_TOKEN-none}\"; echo \"${REAPERD_TOKEN_FILE-none}\"; \
                  echo \"${CLAUDEMESH_IPC_TOKEN_FILE-none}\"; echo \"${REAPERD_SESSION_ID-none}\"";
    let outer = |arguments: &[&str]| {
        let mut run = harness.run(&[arguments, &["--", "sh", "-c", script]].concat());
        run.env("CLAUDEMESH_IPC_TOKEN", "ab".repeat(32))
            .env("REAPERD_TOKEN_FILE", "/outer")
            .env("CLAUDEMESH_IPC_TOKEN_FILE", "/outer")
            .env("REAPERD_SESSION_ID", "outer");
        CommandOutput::by(run.output().unwrap())
    };
    let output = outer(&[]).done();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], "none");
    assert_eq!(lines[1], lines[2]);
    assert!(
        is_of(Path::new(lines[1]), lines[3]) && lines[3].starts_with("run-"),
        "{output}"
    );
    let output = outer(&["--best-effort", "--socket", "/nowhere/s.sock"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.out, "none\n".repeat(4));
    harness.leaves_nothing();
}

#[test]
fn a_run_within_a_run_has_a_session_of_its_own_and_the_outer_one_stays() {
    let harness = Harness::new();
    let script = format!(
        "{SAY_TOKEN}; \"$REAPERD\" run -- sh -c '{SAY_TOKEN}'; {SAY_TOKEN}; exec sleep 600"
    );
    let mut launched = Launched::start(&mut harness.run(&["--", "sh", "-c", &script]));
    let [(outer, outer_id), (inner, inner_id), (_, again)] = [(); 3].map(|()| launched.session());
    assert_eq!(outer_id, again);
    assert_ne!(outer_id, inner_id);
    eventually("the inner session ends", || !harness.daemon.accepts(&inner));
    eventually("its file goes", || harness.files().len() == 1);
    assert!(harness.daemon.accepts(&outer));
    assert!(is_of(&harness.files()[0], &outer_id));
    launched.kill();
    harness.leaves_nothing();
}
