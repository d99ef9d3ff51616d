//! Every command can be run, whatever its name, folder and environment. Flag values that cannot be
//! used are refused.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn a_command_with_an_odd_name_is_run_and_its_name_shown_sanitized() {
    let harness = Harness::new();
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("line\nfeed");
    fs::create_dir(&folder).unwrap();
    let shell = folder.join(format!("\u{1b}[31m\u{202e}{}", "é".repeat(120)));
    symlink("/bin/sh", &shell).unwrap();
    let mut launched = harness.start_shell(shell.to_str().unwrap(), &folder);
    let (token, id) = launched.session();
    assert!(harness.daemon.accepts(&token));
    let listed = harness.daemon.list();
    assert_eq!(listed[0].session_id, id);
    let name = &*listed[0].display_name;
    // Cut between two characters of two bytes each, for which 122 of 128 bytes are left.
    assert_eq!(name, format!("_[31m_{}", "é".repeat(61)));
    assert!(name.len() <= 128);
    let list: serde_json::Value = harness.daemon.get("/v1/sessions").unwrap();
    let cwd = &list["sessions"][0]["cwd"];
    assert!(cwd.is_null(), "a sanitized path is another folder: {cwd}");
    launched.kill();
    harness.leaves_nothing();
}

#[test]
fn a_command_with_an_empty_sanitized_name_gets_a_default_name() {
    let harness = Harness::new();
    let folder = tempfile::tempdir().unwrap();
    let shell = folder.path().join(" ");
    symlink("/bin/sh", &shell).unwrap();
    let mut launched = harness.start_shell(shell.to_str().unwrap(), folder.path());
    launched.session();
    assert_eq!(&*harness.daemon.list()[0].display_name, "command");
    launched.kill();
    harness.leaves_nothing();
}

#[test]
fn a_command_runs_in_a_deleted_folder() {
    let harness = Harness::new();
    let script = "mkdir gone && cd gone && rmdir ../gone && exec \"$REAPERD\" run -- /bin/echo ran";
    let parent = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(parent.path());
    harness.set_environment(&mut shell);
    assert_eq!(CommandOutput::of(&mut shell).done(), "ran\n");
    harness.leaves_nothing();
}

#[test]
fn unusable_flag_values_are_refused_with_the_name_of_the_flag() {
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
        let output = CommandOutput::of(&mut harness.run(&[flags, command].concat()));
        output.failed(super::super::USAGE, sentence);
    }
    harness.leaves_nothing();
}

#[test]
fn a_command_does_not_inherit_the_token_of_an_outer_session() {
    let harness = Harness::new();
    let script = "echo \"${CLAUDEMESH_IPC_TOKEN-none}\"; echo \"${REAPERD_TOKEN_FILE-none}\"; \
                  echo \"${CLAUDEMESH_IPC_TOKEN_FILE-none}\"; echo \"${REAPERD_SESSION_ID-none}\"";
    let outer = |arguments: &[&str]| {
        let mut run = harness.run(&[arguments, &["--", "sh", "-c", script]].concat());
        run.env("CLAUDEMESH_IPC_TOKEN", "ab".repeat(32))
            .env("REAPERD_TOKEN_FILE", "/outer")
            .env("CLAUDEMESH_IPC_TOKEN_FILE", "/outer")
            .env("REAPERD_SESSION_ID", "outer");
        CommandOutput::of(&mut run)
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
fn a_nested_run_has_another_session_and_the_outer_session_stays() {
    let harness = Harness::new();
    let script = format!(
        "{PRINT_SESSION}; \"$REAPERD\" run -- sh -c '{PRINT_SESSION}'; {PRINT_SESSION}; exec sleep 600"
    );
    let mut launched = Launched::start(&mut harness.run(&["--", "sh", "-c", &script]));
    let [(outer, outer_id), (inner, inner_id), (_, again)] = [(); 3].map(|()| launched.session());
    assert_eq!(outer_id, again);
    assert_ne!(outer_id, inner_id);
    eventually("the inner session ends", || !harness.daemon.accepts(&inner));
    eventually("its file is removed", || harness.files().len() == 1);
    assert!(harness.daemon.accepts(&outer));
    assert!(is_of(&harness.files()[0], &outer_id));
    launched.kill();
    harness.leaves_nothing();
}
