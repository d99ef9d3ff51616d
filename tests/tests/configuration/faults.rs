//! Files and values that are refused, and where values come from.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};

use reaper_tests::expect::root_with;
use reaper_tests::user::as_user;

use super::*;

/// Checks a file with this text, and returns the lines of the error.
fn faults(text: &str) -> Vec<String> {
    let file = ConfigFile::with(text);
    let output = run(&["config", "check", file.path()], &[]);
    assert_eq!(output.status.code(), Some(INVALID), "{output:?}");
    assert_eq!(out(&output), "");
    let own = format!("  {}:", file.path());
    let lines = err(&output).lines().filter(|line| line.starts_with("  "));
    let lines = lines.filter(|line| !line.starts_with("  try: "));
    let lines = lines.map(|line| line.strip_prefix(&own).unwrap_or(line).to_owned());
    lines.collect()
}

#[test]
fn each_class_of_fault_names_its_place_the_key_and_what_is_allowed() {
    for (text, expected) in [
        (
            "max-sesions = 5",
            "1:1: unknown key \"max-sesions\"; did you mean \"max-sessions\"?",
        ),
        ("ttl_max = 5", "1:1: unknown key \"ttl_max\"; "),
        (
            "a = 1\n",
            "1:1: unknown key \"a\"; `reaperd config default` lists the keys",
        ),
        ("\n  ttl = \"soon\"", "2:9: ttl = \"soon\": "),
        ("ttl = 5", "1:7: ttl = \"5\": "),
        (
            "max-sessions = 0",
            "1:16: max-sessions = \"0\": must be at least 1; expected a whole number",
        ),
        ("max-sessions = -1", "1:16: max-sessions = \"-1\": "),
        (
            "max-sessions = 1.5",
            "1:16: max-sessions is a value of type float; expected a whole",
        ),
        ("max-bytes = \"64MB\"", "1:13: max-bytes = \"64MB\": "),
        (
            "max-connections = 7",
            "1:19: max-connections = \"7\": must be at least 8; expected",
        ),
        (
            "keep-alive = \"900ms\"",
            "1:14: keep-alive = \"900ms\": must be at least 1s",
        ),
        (
            "register-policy = \"all\"",
            "1:19: register-policy = \"all\": is no policy; expected self, same-uid or any",
        ),
        (
            "strict-replace = \"yes\"",
            "1:18: strict-replace is a value of type string; expected true or false",
        ),
        (
            "allow-uid = [\"root\", \"no-such-user\"]",
            "1:13: allow-uid = \"root,no-such-user\": \"no-such-user\": there is no user",
        ),
        (
            "socket-group = \"no-such-group\"",
            "1:16: socket-group = \"no-such-group\": there is no group",
        ),
        (
            "user = \"no-such-user\"",
            "1:8: user = \"no-such-user\": there is no user",
        ),
        (
            "sources = [\"netlnik\"]",
            "1:11: sources = \"netlnik\": unknown source",
        ),
        ("require = \"nothing\"", "1:11: require = \"nothing\": "),
        ("log = \"reaperd=loud\"", "1:7: log = \"reaperd=loud\": "),
        (
            "ttl = \"5s\"\nttl = \"6s\"",
            "2:1: is not TOML: duplicate key",
        ),
        ("ttl 5s", "1:5: is not TOML: "),
        ("[daemon]\nttl = \"5s\"", "1:2: \"daemon\" is a table"),
        ("ttl = 1979-05-27", "1:7: ttl is a value of type datetime"),
    ] {
        let found = faults(text);
        assert!(
            found.iter().any(|it| it.starts_with(expected)),
            "{text}\n{found:#?}"
        );
    }
}

#[test]
fn all_faults_are_reported_at_once_and_in_order() {
    let found = faults("ttl = \"soon\"\nx = 1\nmax-bytes = \"1 TB\"\nstrict-replace = 1\n");
    assert_eq!(found.len(), 4, "{found:#?}");
    for (fault, line) in found.iter().zip(1..) {
        assert!(fault.starts_with(&format!("{line}:")), "{found:#?}");
    }
    let together = faults("user = \"root\"\nno-monitor = true\n");
    assert_eq!(
        together,
        ["  user and no-monitor cannot be set together; expected one of them"]
    );
}

#[test]
fn a_daemon_does_not_start_with_faults_in_file_or_environment() {
    let folder = private_folder();
    let socket = folder.path().join("s.sock");
    let daemon = ["daemon", "--socket", socket.to_str().unwrap(), "--config"];
    let file = ConfigFile::with("ttl = \"soon\"\n");
    let output = run(
        &[&daemon[..], &[file.path()]].concat(),
        &[("REAPERD_MAX_BYTES", "lots")],
    );
    assert_eq!(output.status.code(), Some(INVALID), "{output:?}");
    let err = err(&output);
    assert!(err.contains("reaperd.toml:1:7: ttl = \"soon\""), "{err}");
    assert!(err.contains("REAPERD_MAX_BYTES: \"lots\": "), "{err}");
    assert!(
        err.contains("  try: correct it and run `reaperd config check`"),
        "{err}"
    );
    assert!(!socket.exists());
    let missing = run(&[&daemon[..], &["/nonexistent/reaperd.toml"]].concat(), &[]);
    assert_eq!(missing.status.code(), Some(INVALID));
    assert!(super::err(&missing).contains("/nonexistent/reaperd.toml: does not exist"));
}

#[test]
fn what_is_not_a_regular_file_is_refused_without_waiting_for_it() {
    let folder = private_folder();
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for path in [pipe.to_str().unwrap(), "/dev/zero", "/tmp"] {
        let output = run(&["config", "check", path], &[]);
        assert_eq!(output.status.code(), Some(INVALID), "{output:?}");
        assert!(err(&output).contains("is not a regular file"), "{output:?}");
    }
}

#[test]
fn a_file_without_end_is_refused() {
    let file = ConfigFile::with(&"# a comment\n".repeat(30_000));
    let output = run(&["config", "check", file.path()], &[]);
    assert!(
        err(&output).contains("is longer than 262144 bytes"),
        "{output:?}"
    );
}

#[test]
fn root_refuses_a_file_that_others_may_change() {
    if !root_with(&[]) {
        return;
    }
    let file = ConfigFile::with("ttl = \"1h\"\n");
    let folder = file.path.parent().unwrap();
    let check = || run(&["config", "check", file.path()], &[]);
    let refused = |why: &str| {
        let output = check();
        assert_eq!(output.status.code(), Some(INVALID), "{output:?}");
        assert!(err(&output).contains(why), "{output:?}");
    };
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o620, 0o602, 0o1666] {
        set_mode(&file.path, mode);
        refused("others may write to the file");
    }
    set_mode(&file.path, 0o644);
    chown(&file.path, Some(ALICE), None).unwrap();
    refused("the file belongs to user 2001");
    chown(&file.path, Some(0), None).unwrap();
    set_mode(folder, 0o777);
    refused("others may write to its folder");
    set_mode(folder, 0o1777);
    assert_eq!(out(&check()), format!("ok: {}\n", file.path()));
    set_mode(folder, 0o700);
    chown(folder, Some(ALICE), None).unwrap();
    refused("its folder belongs to user 2001");
    // A user who is not root decides that alone.
    chown(&file.path, Some(ALICE), None).unwrap();
    set_mode(&file.path, 0o666);
    let of_alice = as_user(ALICE, check);
    assert!(of_alice.status.success(), "{of_alice:?}");
}

#[test]
fn a_later_origin_wins_and_is_shown() {
    let home = private_folder();
    let folder = home.path().join("reaperd");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("reaperd.toml");
    fs::write(
        &file,
        "ttl = \"1h\"\nmax-ttl = \"2h\"\n\nkeep-alive = \"40s\"\n",
    )
    .unwrap();
    let home = home.path().to_str().unwrap();
    let variables = [
        ("XDG_CONFIG_HOME", home),
        ("REAPERD_MAX_TTL", "3h"),
        ("REAPERD_ALLOW_UID", "7,root"),
        ("REAPERD_STRICT_REPLACE", ""),
    ];
    let show = |arguments: &[&str]| {
        let output = run(&[&["config", "show"], arguments].concat(), &variables);
        assert!(output.status.success(), "{output:?}");
        out(&output).to_owned()
    };
    let with_origin = show(&["--origin"]);
    let file = file.to_str().unwrap();
    for (line, origin) in [
        ("ttl = \"1h\"", format!("{file}:1")),
        ("max-ttl = \"3h\"", "variable REAPERD_MAX_TTL".to_owned()),
        ("keep-alive = \"40s\"", format!("{file}:4")),
        (
            "allow-uid = [7, \"root\"]",
            "variable REAPERD_ALLOW_UID".to_owned(),
        ),
        ("strict-replace = false", "default".to_owned()),
    ] {
        let expected = format!("{line:<40}  # {origin}");
        assert!(
            with_origin.lines().any(|it| it == expected),
            "{expected}\n{with_origin}"
        );
    }
    let json: Value = serde_json::from_str(&show(&["--json"])).unwrap();
    assert_eq!(json["files"].as_array().unwrap().last().unwrap(), file);
    // What is printed is a file with the same values.
    let shown = show(&[]);
    let again = ConfigFile::with(&shown);
    let output = run(&["config", "show", "--config", again.path()], &[]);
    assert_eq!(out(&output), shown);
    let none = run(
        &["config", "show", "--no-config"],
        &[("XDG_CONFIG_HOME", home)],
    );
    assert!(out(&none).contains("\nttl = \"24h\"\n"), "{none:?}");
}

#[test]
fn clients_use_the_socket_of_the_configuration() {
    let daemon = Launch::with(&["--sources", "pidfd"]).start();
    let home = private_folder();
    let folder = home.path().join("reaperd");
    fs::create_dir(&folder).unwrap();
    let socket = daemon.socket();
    let file = folder.join("reaperd.toml");
    fs::write(&file, format!("socket = {socket:?}\n")).unwrap();
    let variables = [("XDG_CONFIG_HOME", home.path().to_str().unwrap())];
    let output = run(&["ls"], &variables);
    assert_eq!((output.status.code(), err(&output)), (Some(0), ""));
    let flag = run(&["ls", "--socket", "/nonexistent/s"], &variables);
    assert_eq!(flag.status.code(), Some(3), "a flag wins");
    fs::write(&file, format!("socket = {socket:?}\nttl = 0\n")).unwrap();
    let broken = run(&["ls"], &variables);
    assert!(
        err(&broken).contains("the configuration is not used: "),
        "{broken:?}"
    );
    daemon.stop();
}

#[test]
fn a_flag_wins_over_everything_and_a_switch_can_be_turned_off() {
    let text = "ttl = \"1h\"\nstrict-replace = true\nkeep-alive = \"40s\"\n";
    let flags = ["--ttl", "5m", "--strict-replace=false"];
    let configured = Configured::by(text, &flags, |launch| {
        launch
            .with_variable("REAPERD_TTL", "2h")
            .with_variable("REAPERD_KEEP_ALIVE", "50s")
    });
    // A reload that changes nothing must not let the file win.
    configured.reload(text);
    let log = configured.daemon.log();
    assert!(
        log.contains("configuration reloaded: nothing has changed"),
        "{log}"
    );
    configured.reload("ttl = \"9h\"\nkeep-alive = \"60s\"\nmax-ttl = \"7m\"\n");
    let log = configured.daemon.log();
    assert!(
        log.contains("configuration reloaded: max-ttl \"never\" -> \"7m\"\n"),
        "{log}"
    );
    configured.daemon.stop();
}

#[test]
fn a_user_with_a_file_does_not_need_that_of_the_system() {
    // Both exist in a mount namespace of its own.
    if !root_with(&["unshare", "setpriv"]) {
        return;
    }
    let folder = private_folder();
    let script = "mount -t tmpfs none /etc/reaperd 2>/dev/null || { mkdir -p /etc/reaperd; mount -t tmpfs none /etc/reaperd; }
        printf 'ttl = \"1h\"\\nkeep-alive = \"41s\"\\n' > /etc/reaperd/reaperd.toml
        mkdir -p \"$0/reaperd\"; chmod 755 \"$0\" \"$0/reaperd\"
        printf 'ttl = \"2h\"\\n' > \"$0/reaperd/reaperd.toml\"
        export XDG_CONFIG_HOME=\"$0\"
        for user in 0 2001; do
            setpriv --reuid $user --regid $user --clear-groups \"$1\" config show | grep -E '^(ttl|keep-alive)'
        done
        XDG_CONFIG_HOME=/nonexistent setpriv --reuid 2001 --regid 2001 --clear-groups \"$1\" config show | grep -E '^(ttl|keep-alive)'";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(folder.path())
        .arg(reaperd())
        .env_remove("REAPERD_TTL")
        .output()
        .unwrap();
    let lines: Vec<_> = out(&output).lines().collect();
    let expected = [
        "ttl = \"2h\"",
        "keep-alive = \"41s\"", // root: both
        "ttl = \"2h\"",
        "keep-alive = \"30s\"", // a user: its own
        "ttl = \"1h\"",
        "keep-alive = \"41s\"", // a user without one
    ];
    assert_eq!(lines, expected, "{output:?}");
    fs::remove_dir("/etc/reaperd").unwrap_or_default();
}
